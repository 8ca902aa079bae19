//! What each request means, one file an API.

mod delete_groups;
mod describe_groups;
mod heartbeat;
mod join_group;
mod leave_group;
mod list_groups;
mod offset_commit;
mod offset_delete;
mod offset_expiry;
mod offset_fetch;
mod sync_group;

pub use offset_fetch::{offset_fetch_groups, offset_fetch_response};
