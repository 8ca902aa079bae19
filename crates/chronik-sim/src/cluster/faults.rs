//! What goes wrong on purpose, and how everything is mended in the end.
//!
//! A machine without power may lose what was not synced. The cluster promises that nothing acknowledged is lost by that
//! as long as fewer machines than `min.insync.replicas` lose something before the others have made up for it (KIP-966);
//! so no more are struck, except where every record is synced before it counts, which promises more.

use chronik_disk::{Crash, Fault as DiskFault, FaultRule, Operation};
use chronik_log::LogError;
use chronik_raft::MetadataLog as _;
use chronik_types::MonotonicMs;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::effects::{Duty, node_id};
use super::event::Event;
use super::network::{Endpoint, FOR_EVER_MS};
use super::node::{Entry, Excuse, Exit};
use super::plan::Fault;
use super::rot;
use super::sabotage::Sabotage;
use super::watched_disk::Flip;
use super::world::World;

/// How often a process that waits for its registration looks again, as the server does.
const READY_CHECK_MS: u64 = 20;
/// How long handing over may take, as on the server.
const HAND_OVER_MS_MAX: u64 = 1_500;
/// For how long after a disk was full it excuses that a process ends.
const FULL_DISK_EXCUSES_MS: u64 = 1_000;
/// An hour, which is how far a wall clock jumps at the most.
const HOUR_MS: i64 = 3_600_000;

impl World {
    /// From now on things go wrong.
    pub(super) fn begin_faults(&mut self) {
        self.network.is_faulty = true;
        if !self.plan.faults.is_empty() {
            let pause_ms = self.rng.below(self.plan.fault_pause_ms * 2);
            self.at(self.now_ms + pause_ms, Event::Fault);
        }
    }

    /// Strikes once, and sees to it that it strikes again.
    pub(super) fn break_something(&mut self) {
        if !self.network.is_faulty {
            return;
        }
        let pause_ms = 1 + self.rng.below(self.plan.fault_pause_ms * 2);
        self.at(self.now_ms + pause_ms, Event::Fault);
        let fault = self.plan.faults[self.rng.index(self.plan.faults.len())];
        let node = self.rng.index(self.plan.node_count);
        self.trace.note(format_args!("{} FAULT {fault:?} at node {}", self.now_ms, node_id(node)));
        if self.strike(fault, node) {
            self.counts.faults.add(fault);
        }
    }

    /// Whether it struck, as far as that is known at once: what a disk does later is counted there.
    fn strike(&mut self, fault: Fault, node: usize) -> bool {
        match fault {
            Fault::Crash => return self.kill(node),
            Fault::CrashAll => {
                let killed_count = (0..self.plan.node_count).filter(|node| self.kill(*node)).count();
                return killed_count > 0;
            }
            Fault::CrashInWrite => {
                let Some(process) = &self.nodes[node].process else { return false };
                let life = process.life;
                let count = self.rng.below(8);
                self.nodes[node].disk.stop_after(count);
                self.nodes[node].is_stopping = true;
                self.nodes[node].excuse_life();
                // Where it writes nothing, it ends all the same.
                let at_ms = self.now_ms + 1 + self.rng.below(40);
                self.at(at_ms, Event::Kill { life });
            }
            Fault::PowerLoss => {
                self.note_recoveries();
                let lost_count = self.nodes.iter().filter(|node| node.has_lost).count();
                let lost_max = usize::try_from(self.plan.min_insync - 1).unwrap_or(0);
                // Synced records survive any loss of power, as long as the disk gives them back.
                let is_safe =
                    self.plan.is_flushed && !self.plan.faults.iter().any(|fault| fault.takes_synced());
                if !self.nodes[node].has_lost && lost_max <= lost_count && !is_safe {
                    return false;
                }
                self.lose_power(node);
            }
            Fault::PowerLossAndFile => {
                self.note_recoveries();
                let others = (0..self.plan.node_count).filter(|other| *other != node);
                if others.filter(|other| self.nodes[*other].has_lost).count() > 0 {
                    return false;
                }
                self.lose_power(node);
                let Some(path) = rot::lose_file(&self.nodes[node].disk, &mut self.rng) else {
                    self.counts.faults.add(Fault::PowerLoss);
                    return false;
                };
                self.trace.note(format_args!("{} {} is gone", self.now_ms, path.display()));
            }
            Fault::PowerLossAll => (0..self.plan.node_count).for_each(|node| self.lose_power(node)),
            Fault::Shutdown => return self.tell_to_end(node),
            Fault::Pause => {
                if self.nodes[node].process.is_none() {
                    return false;
                }
                let pause_ms = 50 + self.rng.below(3_500);
                let until_ms = &mut self.nodes[node].paused_until_ms;
                *until_ms = (self.now_ms + pause_ms).max(*until_ms);
                self.at(self.now_ms + pause_ms, Event::Resume { node });
            }
            Fault::CutPair
            | Fault::CutOneWay
            | Fault::CutNode
            | Fault::Bridge
            | Fault::Split
            | Fault::Ring
            | Fault::Deafen
            | Fault::CutClient => self.cut_something(fault, node),
            Fault::Reset => {
                let mut streams: Vec<u64> = self.network.streams.keys().copied().collect();
                streams.retain(|_| self.rng.chance(50));
                for stream in &streams {
                    self.close(*stream);
                }
                return !streams.is_empty();
            }
            Fault::SyncError => {
                self.note_recoveries();
                let others = (0..self.plan.node_count).filter(|other| *other != node);
                let others_lost = others.filter(|other| self.nodes[*other].has_lost).count();
                if self.nodes[node].process.is_none() || others_lost > 0 {
                    return false;
                }
                // Syncs of logs are rare unless each record is synced, those of the metadata log are not.
                let path = if self.rng.chance(50) { ".log" } else { "wal-" };
                self.nodes[node].disk.inject(FaultRule::once(Operation::Sync, path, DiskFault::Io));
                self.nodes[node].sync_failed = true;
                self.nodes[node].excuse_life();
                self.nodes[node].has_lost = true;
                return false;
            }
            Fault::DiskFull => {
                let free = self.rng.below(3_000);
                let until_ms = self.now_ms + 100 + self.rng.below(1_500);
                self.nodes[node].fill_disk(free, until_ms);
                let excuse = &mut self.nodes[node].excuse;
                excuse.until_ms = excuse.until_ms.max(until_ms + FULL_DISK_EXCUSES_MS);
                self.at(until_ms, Event::DiskEmptied { node });
                return false;
            }
            Fault::FlipRead => {
                self.note_recoveries();
                let others = (0..self.plan.node_count).filter(|other| *other != node);
                if others.filter(|other| self.nodes[*other].has_lost).count() > 0 {
                    return false;
                }
                // A process that starts takes for lost what it reads wrongly often enough.
                self.nodes[node].has_lost |= self.nodes[node].process.is_none();
                let bit = u8::try_from(self.rng.below(8)).unwrap_or(0);
                let flip = Flip { position_bytes: self.rng.index(4_096), bit };
                self.nodes[node].strikes.arm(flip);
                return false;
            }
            Fault::Rot => {
                self.note_recoveries();
                let others = (0..self.plan.node_count).filter(|other| *other != node);
                if others.filter(|other| self.nodes[*other].has_lost).count() > 0 {
                    return false;
                }
                let place = rot::strike(&self.nodes[node].disk, &mut self.rng);
                let Some(place) = place else { return false };
                self.trace.note(format_args!("{} rot in {place}", self.now_ms));
                self.nodes[node].has_lost = true;
                let until_ms = self.now_ms + 100 + self.rng.below(4_000);
                self.at(until_ms, Event::DiskRestored { node });
                self.checkers.rotten_until(until_ms);
            }
            Fault::ClockJump => {
                let off_by_ms = i64::try_from(self.rng.below(7_200_000)).unwrap_or(0) - HOUR_MS;
                self.nodes[node].clock.off_by_ms.store(off_by_ms, Ordering::Relaxed);
            }
            Fault::Campaign => {
                let Some(process) = &self.nodes[node].process else { return false };
                process.handle.leader_gone();
                self.schedule(node, Duty::Raft, 0);
            }
        }
        true
    }

    fn schedule(&mut self, node: usize, duty: Duty, at_ms: u64) {
        let Some(life) = self.nodes[node].process.as_ref().map(|process| process.life) else { return };
        self.schedule_duty(life, duty, at_ms);
    }

    fn down_ms(&mut self) -> u64 {
        // Some stay away until they are fenced for their silence alone.
        if self.rng.chance(25) { 2_500 } else { 50 + self.rng.below(1_200) }
    }

    /// A process is killed, if one runs, and started again later.
    pub(super) fn kill(&mut self, node: usize) -> bool {
        if self.nodes[node].process.is_none() {
            return false;
        }
        self.end(node, Crash::Process);
        let down_ms = self.down_ms();
        self.at(self.now_ms + down_ms, Event::Start { node });
        true
    }

    /// A machine loses power, and starts again later.
    fn lose_power(&mut self, node: usize) {
        let seed = self.rng.next_u64();
        let had_process = self.nodes[node].process.is_some();
        self.end(node, Crash::PowerLoss { seed });
        self.nodes[node].boot += 1;
        self.nodes[node].has_lost = true;
        // What was not synced is gone for good now, and not only from the disk.
        self.nodes[node].sync_failed = false;
        self.nodes[node].is_off = true;
        // One that was down already is started by what has ended it.
        if had_process {
            let down_ms = self.down_ms();
            self.at(self.now_ms + down_ms, Event::Start { node });
        }
    }

    /// A process is told to end, if one serves, and is started again later.
    fn tell_to_end(&mut self, node: usize) -> bool {
        let until_ms = self.now_ms + HAND_OVER_MS_MAX;
        let Some(process) = self.nodes[node].process.as_mut() else { return false };
        if !matches!(process.exit, Exit::No) || !matches!(process.entry, Entry::Serving) {
            return false;
        }
        let done = Arc::new(Mutex::new(false));
        process.exit = Exit::HandingOver { until_ms, done: Arc::clone(&done) };
        process.broker.hand_over(Box::new(move |_| *done.lock() = true));
        self.schedule(node, Duty::Leave, self.now_ms);
        true
    }

    /// The end of a process that has left in good order.
    pub(super) fn shut_down(&mut self, position: usize) {
        let now = chronik_broker::Clock::now(&self.nodes[position].clock);
        let Some(process) = self.nodes[position].process.as_ref() else { return };
        let broker = Arc::clone(&process.broker);
        broker.stop_waiting(now);
        // Whoever waited is answered before the connections close.
        self.settle();
        let Some(process) = self.nodes[position].process.take() else { return };
        let (life, logs, last_life) = (process.life, Arc::clone(&process.logs), process.last_life.clone());
        let registered = broker.registered_epoch();
        drop(process);
        self.counts.ends += 1;
        self.trace.note(format_args!("{} node {} has left in good order", self.now_ms, node_id(position)));
        // Where it fails, the next process takes this one for killed.
        let outcome = logs.shutdown(now);
        let noted = outcome.as_ref().map_or(Ok(()), |()| last_life.end(registered));
        if let Err(error) = noted {
            self.trace.note(format_args!("{} its end was not noted: {error}", self.now_ms));
        }
        drop((broker, logs));
        self.settle();
        // What was to strike this process does not strike the next.
        self.nodes[position].clear_faults();
        self.nodes[position].disk.crash(Crash::Process);
        self.hang_up(life, false);
        let down_ms = self.down_ms();
        self.at(self.now_ms + down_ms, Event::Start { node: position });
    }

    /// A process on its way into service.
    pub(super) fn enter_service(&mut self, position: usize) -> Option<MonotonicMs> {
        let soon = Some(MonotonicMs(self.now_ms + READY_CHECK_MS));
        let node = &mut self.nodes[position];
        let now = chronik_broker::Clock::now(&node.clock);
        let process = node.process.as_mut()?;
        match &process.entry {
            Entry::Started => {
                if process.broker.may_register() {
                    let asked = Arc::new(Mutex::new(None));
                    let told = Arc::clone(&asked);
                    process.broker.register(Box::new(move |outcome| *told.lock() = Some(outcome.is_ok())));
                    process.entry = Entry::Asked(asked);
                }
                soon
            }
            Entry::Asked(asked) => {
                let outcome = *asked.lock();
                match outcome {
                    None => {}
                    Some(true) => process.entry = Entry::Registered,
                    Some(false) => process.entry = Entry::Started,
                }
                soon
            }
            Entry::Registered => {
                let is_in_contact = process.broker.is_in_contact(now.monotonic);
                if !is_in_contact || !process.broker.is_in_service() || !process.broker.is_initialized() {
                    return soon;
                }
                process.broker.retire_strays();
                process.broker.load_groups(now);
                process.entry = Entry::Serving;
                self.trace.note(format_args!("{} node {} serves", self.now_ms, node.id));
                None
            }
            Entry::Serving => None,
        }
    }

    /// Notes which nodes have made up for what they had lost: they are in all ISRs again.
    pub(super) fn note_recoveries(&mut self) {
        let newest = self
            .nodes
            .iter()
            .filter_map(|node| Some(node.process.as_ref()?.handle.image()))
            .max_by_key(|image| image.applied_index());
        let Some(image) = newest else { return };
        for node in &mut self.nodes {
            if !node.has_lost || node.sync_failed || node.disk.is_rotten() {
                continue;
            }
            let Some(process) = &node.process else { continue };
            let is_registered = process.broker.registration(&image) == Some(false);
            let is_in_sync = image
                .topics()
                .flat_map(|topic| topic.partitions())
                .all(|(_, state)| !state.replicas.contains(&node.id) || state.isr.contains(&node.id));
            if is_registered && is_in_sync {
                node.has_lost = false;
            }
        }
    }

    /// Everything works from now on.
    pub(super) fn heal(&mut self) {
        self.network.heal();
        self.is_mended = true;
        if self.sabotage == Some(Sabotage::NeverHeal) {
            self.cut(Endpoint::Node(0), Endpoint::Node(1), FOR_EVER_MS);
        }
        self.trace.note(format_args!("{} HEAL", self.now_ms));
        for position in 0..self.plan.node_count {
            let node = &mut self.nodes[position];
            node.clear_faults();
            node.disk.restore();
            node.excuse = Excuse::default();
            if node.empty_disk() {
                self.counts.faults.add(Fault::DiskFull);
            }
            node.clock.off_by_ms.store(0, Ordering::Relaxed);
            if node.paused_until_ms > self.now_ms {
                node.paused_until_ms = self.now_ms;
                self.at(self.now_ms, Event::Resume { node: position });
            }
            let node = &self.nodes[position];
            // As an operator would: a log directory that went offline comes back with its process, and so does a log that could
            // not be read the same way twice. One that waits for room comes back by itself.
            let needs_process = |error: &LogError| !matches!(error, LogError::DiskFull { .. });
            let is_offline = node.process.as_ref().is_some_and(|process| {
                !process.logs.offline_dirs().is_empty()
                    || process.logs.failed().iter().any(|(_, error)| needs_process(error))
            });
            if is_offline || node.is_stopping {
                self.end(position, Crash::Process);
            }
            if self.nodes[position].process.is_none() {
                self.at(self.now_ms + 1, Event::Start { node: position });
            }
        }
        self.settle();
    }
}
