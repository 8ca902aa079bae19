//! Heartbeat (12), versions 0–4: keeps a member's session, and tells it of a rebalance.

use chronik_protocol::messages::{HeartbeatRequest, HeartbeatResponse};
use chronik_types::{ErrorCode, Now};

use crate::coordinator::{GroupCoordinator, env};
use crate::effects::{Effects, RequestContext, Response};
use crate::group::State;

impl GroupCoordinator {
    /// Handles a Heartbeat.
    pub fn heartbeat(&mut self, now: Now, context: &RequestContext, request: &HeartbeatRequest) -> Effects {
        let mut fx = Effects::default();
        let error = match self.check_heartbeat(request) {
            // A member cannot help it that its coordinator is loading, and its session begins afterwards.
            Err(ErrorCode::CoordinatorLoadInProgress) => ErrorCode::None,
            Err(error) => error,
            Ok(state) => {
                if let Some(group) = self.groups.get(request.group_id.as_str()) {
                    group.refresh_session(&mut env!(self, now, fx), &request.member_id);
                }
                match state {
                    State::PreparingRebalance => ErrorCode::RebalanceInProgress,
                    State::Empty => ErrorCode::UnknownMemberId,
                    State::CompletingRebalance | State::Stable => ErrorCode::None,
                }
            }
        };
        let response = HeartbeatResponse { error_code: error.code(), ..Default::default() };
        fx.complete(context.waiter(), Response::Heartbeat(response));
        fx
    }

    fn check_heartbeat(&self, request: &HeartbeatRequest) -> Result<State, ErrorCode> {
        self.check_serving()?;
        if request.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let group = self.groups.get(request.group_id.as_str()).ok_or(ErrorCode::UnknownMemberId)?;
        group.validate_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        Ok(group.state())
    }
}
