//! What `AlterConfigs` and `IncrementalAlterConfigs` share: resources are planned one by one, each that passes is one
//! proposal, and the request is answered when all of them are applied here.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_raft::ProposeError;
use chronik_raft::metadata::{Command, CommandBatch, CommandError, MetadataImage};
use chronik_types::ErrorCode;

use crate::broker::Broker;
use crate::config::{PlannedConfigs, WantedConfigs};
use crate::context::RequestContext;
use crate::controller::CreationError;

use super::outcomes::Outcomes;

/// The most resources that one request may change: each is a proposal of its own, and those that wait are bounded.
const RESOURCES_PER_REQUEST_MAX: usize = 2_000;
/// How long a request waits for its proposals: as long as Kafka's clients wait for the answer.
const WAIT_MS_MAX: i32 = 30_000;
/// How often a change is planned anew because somebody else changed the same configs meanwhile.
const PLANS_MAX: u32 = 10;
/// How much of an error a client is told.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// One resource of a request.
pub(super) struct AskedResource {
    pub(super) kind: i8,
    pub(super) name: String,
    pub(super) wanted: WantedConfigs,
}

/// What became of one resource.
pub(super) struct ResourceAnswer {
    pub(super) kind: i8,
    pub(super) name: String,
    pub(super) code: ErrorCode,
    pub(super) message: Option<String>,
}

/// What is known of one resource before its proposal is applied, where it has one.
struct Planned {
    kind: i8,
    name: String,
    result: Result<Option<usize>, CreationError>,
}

/// Plans everything on an image as new as any answer that the client may have seen, and proposes it; `finish` makes
/// the answer of it.
pub(super) fn run(
    broker: &Arc<Broker>,
    context: RequestContext,
    validate_only: bool,
    resources: Vec<AskedResource>,
    finish: impl FnOnce(RequestContext, Vec<ResourceAnswer>) + Send + 'static,
) {
    let again = Arc::clone(broker);
    broker.with_fresh_image(move |image| {
        // Without a quorum nothing can be proposed either, and the proposals say so.
        let image = image.unwrap_or_else(|_| again.metadata.image());
        run_on(&again, &image, context, validate_only, resources, finish);
    });
}

fn run_on(
    broker: &Arc<Broker>,
    image: &MetadataImage,
    context: RequestContext,
    validate_only: bool,
    resources: Vec<AskedResource>,
    finish: impl FnOnce(RequestContext, Vec<ResourceAnswer>) + Send + 'static,
) {
    let mut asked: BTreeMap<(i8, String), Option<WantedConfigs>> = BTreeMap::new();
    let mut order = Vec::new();
    for AskedResource { kind, name, wanted } in resources {
        // A resource that is named again is answered once, so that answers do not grow with repetition.
        match asked.entry((kind, name)) {
            std::collections::btree_map::Entry::Vacant(place) => {
                order.push(place.key().clone());
                place.insert(Some(wanted));
            }
            std::collections::btree_map::Entry::Occupied(mut place) => *place.get_mut() = None,
        }
    }
    let is_too_large = RESOURCES_PER_REQUEST_MAX < order.len();
    // All resources of a request are judged by the same image.
    let mut proposals = Vec::new();
    let planned: Vec<Planned> = order
        .into_iter()
        .map(|(kind, name)| {
            let key = (kind, name);
            let wanted = asked.remove(&key).flatten();
            let (kind, name) = key;
            let plan = match wanted {
                None => Err(CreationError::new(
                    ErrorCode::InvalidRequest,
                    "Each resource must appear at most once.",
                )),
                Some(_) if is_too_large => Err(CreationError::new(
                    ErrorCode::InvalidRequest,
                    format!("One request may change {RESOURCES_PER_REQUEST_MAX} resources at most."),
                )),
                Some(wanted) => broker.plan_configs(image, kind, &name, &wanted).map(|plan| (plan, wanted)),
            };
            let result = plan.map(|(plan, wanted)| match plan {
                _ if validate_only => None,
                PlannedConfigs::Commands(commands) if commands.is_empty() => None,
                PlannedConfigs::Commands(commands) => {
                    proposals.push((AskedResource { kind, name: name.clone(), wanted }, commands));
                    Some(proposals.len().saturating_sub(1))
                }
                PlannedConfigs::LogLevels(levels) => {
                    if let Some(loggers) = broker.configs.loggers() {
                        loggers.set(&levels);
                    }
                    None
                }
            });
            Planned { kind, name, result }
        })
        .collect();
    let outcomes = Outcomes::new(
        broker,
        context,
        proposals.len(),
        Box::new(move |context, mut outcomes: Vec<Option<Result<(), CreationError>>>| {
            let answers = planned.into_iter().map(|planned| answer(planned, &mut outcomes)).collect();
            finish(context, answers);
        }),
    );
    for (position, (asked, commands)) in proposals.into_iter().enumerate() {
        let proposal = Proposal { outcomes: Arc::clone(&outcomes), position, asked, plan_count: 1 };
        proposal.propose(broker, commands);
    }
    outcomes.wait(WAIT_MS_MAX);
}

/// One resource's change on its way.
struct Proposal {
    outcomes: Arc<Outcomes<Result<(), CreationError>>>,
    position: usize,
    asked: AskedResource,
    plan_count: u32,
}

impl Proposal {
    fn propose(self, broker: &Arc<Broker>, commands: Vec<Command>) {
        let again = Arc::clone(broker);
        let done = move |outcome| match outcome {
            Err(ProposeError::Refused { error: CommandError::ConfigChanged { .. }, .. })
                if self.plan_count < PLANS_MAX =>
            {
                self.plan_anew(&again);
            }
            Ok(_) => self.outcomes.set(self.position, Ok(())),
            Err(error) => self.outcomes.set(self.position, Err(CreationError::from_proposal(&error))),
        };
        broker.metadata.propose(CommandBatch::new(commands), Box::new(done));
    }

    fn plan_anew(mut self, broker: &Arc<Broker>) {
        self.plan_count += 1;
        let AskedResource { kind, name, wanted } = &self.asked;
        match broker.plan_configs(&broker.metadata.image(), *kind, name, wanted) {
            Ok(PlannedConfigs::Commands(commands)) if !commands.is_empty() => self.propose(broker, commands),
            Ok(PlannedConfigs::Commands(_) | PlannedConfigs::LogLevels(_)) => {
                self.outcomes.set(self.position, Ok(()));
            }
            Err(error) => self.outcomes.set(self.position, Err(error)),
        }
    }
}

fn answer(planned: Planned, outcomes: &mut [Option<Result<(), CreationError>>]) -> ResourceAnswer {
    let Planned { kind, name, result } = planned;
    let result = match result {
        Ok(None) => Ok(()),
        Ok(Some(position)) => outcomes.get_mut(position).and_then(Option::take).unwrap_or_else(|| {
            Err(CreationError::new(ErrorCode::RequestTimedOut, "The change was not applied in time."))
        }),
        Err(error) => Err(error),
    };
    let (code, message) = match result {
        Ok(()) => (ErrorCode::None, None),
        Err(error) => (error.code, Some(error.message.chars().take(MESSAGE_CHARS_MAX).collect())),
    };
    ResourceAnswer { kind, name, code, message }
}
