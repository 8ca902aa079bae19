//! From the coordinator's answer to the client's.

use chronik_coordinator::Response;
use chronik_protocol::messages::DeleteGroupsResponse;

use crate::context::RequestContext;

/// Answers `context` with what the coordinator says.
pub(super) fn send(context: RequestContext, response: Response) {
    match response {
        Response::JoinGroup(response) => context.reply(&response),
        Response::SyncGroup(response) => context.reply(&response),
        Response::Heartbeat(response) => context.reply(&response),
        Response::LeaveGroup(response) => context.reply(&response),
        Response::OffsetCommit(response) => context.reply(&response),
        Response::OffsetDelete(response) => context.reply(&response),
        Response::DeleteGroups(results) => {
            context.reply(&DeleteGroupsResponse { results, ..Default::default() });
        }
    }
}
