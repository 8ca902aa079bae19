//! What is checked of every answer.

use chronik_coordinator::{Completion, Response};
use chronik_protocol::messages::{DeleteGroupsResponse, Message};
use chronik_protocol::wire::Writer;
use chronik_types::ErrorCode;

use super::client::Stage;
use super::requests::{Asked, error};
use super::world::{Sabotage, World};

impl World {
    pub(super) fn answer(&mut self, completion: Completion) -> Result<(), String> {
        let Completion { request_id, mut response } = completion;
        let Some((api_version, asked)) = self.asked.get(&request_id).cloned() else {
            return Err(format!("ANSWERS: {request_id:?} is answered, and nobody asked"));
        };
        if matches!(asked, Asked::Heartbeat { .. }) && self.sabotage == Some(Sabotage::ForgetHeartbeats) {
            return Ok(());
        }
        if let Response::JoinGroup(join) = &mut response {
            if self.sabotage == Some(Sabotage::NameAnotherLeader) && join.leader != join.member_id {
                join.leader.push('x');
            }
            if self.sabotage == Some(Sabotage::TellAnOldGeneration) && join.generation_id > 2 {
                join.generation_id -= 2;
            }
        }
        let version = if self.sabotage == Some(Sabotage::AnswerInAnotherVersion) { 99 } else { api_version };
        check_form(&response, version)?;
        self.trace.note(format_args!("answer {}: {response:?}", request_id.0));
        let times = if self.sabotage == Some(Sabotage::AnswerTwice) { 2 } else { 1 };
        for _ in 0..times {
            if self.answers.insert(request_id, response.clone()).is_some() {
                return Err(format!("ANSWERS: {request_id:?} is answered twice: {asked:?}"));
            }
        }
        self.check_answer(&asked, &response)
    }

    fn check_answer(&mut self, asked: &Asked, response: &Response) -> Result<(), String> {
        match (asked, response) {
            (Asked::Join { group, is_replacement }, Response::JoinGroup(response)) => {
                if *is_replacement {
                    self.generations.replaced(group);
                }
                if response.error_code != 0 {
                    return Ok(());
                }
                let deletions = self.committed.deletions(group);
                let last_in_log = self.committed.last_generation(group);
                let generation = response.generation_id;
                self.growth.check(self.incarnation, deletions, group, generation, last_in_log)?;
                self.generations.check(self.incarnation, deletions, group, response)
            }
            (Asked::Sync { group, generation, member, owner }, Response::SyncGroup(response)) => {
                if response.error_code != 0 {
                    return Ok(());
                }
                self.committed.check_assignment(group, *generation, member, &response.assignment)?;
                let deletions = self.committed.deletions(group);
                self.owners.check(group, deletions, *generation, owner, &response.assignment)
            }
            (
                Asked::Commit { group, generation, partition, offset, client },
                Response::OffsetCommit(response),
            ) => {
                let error = error(response.topics[0].partitions[0].error_code);
                if error == ErrorCode::None {
                    return self.committed.check_offset(group, *partition, *offset);
                }
                // A commit that could not be written is made again with the next position.
                if !matches!(error, ErrorCode::CoordinatorNotAvailable | ErrorCode::NotCoordinator) {
                    self.tell_member(*client, *generation, error);
                }
                Ok(())
            }
            (Asked::Heartbeat { client, generation }, Response::Heartbeat(response)) => {
                let error = error(response.error_code);
                if !matches!(error, ErrorCode::None | ErrorCode::NotCoordinator) {
                    self.tell_member(*client, *generation, error);
                }
                Ok(())
            }
            (Asked::Leave, Response::LeaveGroup(_)) => Ok(()),
            (Asked::Delete { group }, Response::DeleteGroups(results)) => {
                if results[0].error_code == 0 && self.committed.deletions(group) == 0 {
                    return Err(format!("GROUP-1: {group} is deleted and the log does not say so"));
                }
                Ok(())
            }
            (asked, response) => Err(format!("ANSWERS: {asked:?} is answered with {response:?}")),
        }
    }

    /// An error that concerns the membership under which the client asked, unless that has ended meanwhile.
    fn tell_member(&mut self, client: usize, generation: i32, error: ErrorCode) {
        let client = &mut self.clients[client];
        if client.stage == Stage::Member && client.generation == generation {
            client.take_error(error);
        }
    }
}

/// An answer must fit the version that was asked in.
fn check_form(response: &Response, api_version: i16) -> Result<(), String> {
    let mut writer = Writer::new();
    let written = match response {
        Response::JoinGroup(response) => response.encode(&mut writer, api_version),
        Response::SyncGroup(response) => response.encode(&mut writer, api_version),
        Response::Heartbeat(response) => response.encode(&mut writer, api_version),
        Response::LeaveGroup(response) => response.encode(&mut writer, api_version),
        Response::OffsetCommit(response) => response.encode(&mut writer, api_version),
        Response::OffsetDelete(response) => response.encode(&mut writer, api_version),
        Response::DeleteGroups(results) => {
            DeleteGroupsResponse { results: results.clone(), ..Default::default() }
                .encode(&mut writer, api_version)
        }
    };
    written.map_err(|error| format!("WIRE: {error} in version {api_version}: {response:?}"))
}
