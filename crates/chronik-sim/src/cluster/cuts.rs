//! Ways to be cut off: who does not reach whom for a while.

use super::network::{Endpoint, FOR_EVER_MS};
use super::plan::Fault;
use super::world::World;

impl World {
    /// Cuts as this fault does, from this node's side.
    pub(super) fn cut_something(&mut self, fault: Fault, node: usize) {
        let until_ms = self.now_ms + 50 + self.rng.below(3_000);
        match fault {
            Fault::CutPair => {
                let other = (node + 1 + self.rng.index(self.plan.node_count - 1)) % self.plan.node_count;
                self.cut(Endpoint::Node(node), Endpoint::Node(other), until_ms);
            }
            Fault::CutOneWay => {
                let other = (node + 1 + self.rng.index(self.plan.node_count - 1)) % self.plan.node_count;
                self.network.block(Endpoint::Node(node), Endpoint::Node(other), until_ms);
            }
            Fault::CutNode => {
                self.cut_off(node, until_ms);
                if self.rng.chance(50) {
                    for client in 0..self.clients.len() {
                        self.cut(Endpoint::Node(node), Endpoint::Client(client), until_ms);
                    }
                }
            }
            Fault::Bridge => {
                let others: Vec<usize> = (0..self.plan.node_count).filter(|other| *other != node).collect();
                let (left, right) = others.split_at(others.len() / 2);
                self.cut_apart(left, right, until_ms);
            }
            Fault::Split => {
                let count = self.plan.node_count;
                // From the node on, all around.
                let side: Vec<usize> = (0..count).map(|step| (node + step) % count).collect();
                let (left, right) = side.split_at(count / 2);
                self.cut_apart(left, right, until_ms);
            }
            Fault::Ring => {
                let count = self.plan.node_count;
                for from in 0..count {
                    for to in (0..count).filter(|to| *to != from && *to != (from + 1) % count) {
                        self.network.block(Endpoint::Node(from), Endpoint::Node(to), until_ms);
                    }
                }
            }
            Fault::Deafen => {
                let hears = self.rng.chance(50);
                let others = (0..self.plan.node_count).filter(|other| *other != node).map(Endpoint::Node);
                for other in others.chain((0..self.clients.len()).map(Endpoint::Client)) {
                    let (from, to) =
                        if hears { (Endpoint::Node(node), other) } else { (other, Endpoint::Node(node)) };
                    self.network.block(from, to, until_ms);
                }
            }
            Fault::CutClient => {
                let client = self.rng.index(self.clients.len());
                self.cut(Endpoint::Node(node), Endpoint::Client(client), until_ms);
            }
            _ => {}
        }
    }

    pub(super) fn cut(&mut self, one: Endpoint, other: Endpoint, until_ms: u64) {
        self.network.block(one, other, until_ms);
        self.network.block(other, one, until_ms);
    }

    /// Nobody of one side reaches anybody of the other.
    fn cut_apart(&mut self, left: &[usize], right: &[usize], until_ms: u64) {
        for one in left {
            for other in right {
                self.cut(Endpoint::Node(*one), Endpoint::Node(*other), until_ms);
            }
        }
    }

    /// A node reaches no other.
    fn cut_off(&mut self, node: usize, until_ms: u64) {
        for other in (0..self.plan.node_count).filter(|other| *other != node) {
            self.cut(Endpoint::Node(node), Endpoint::Node(other), until_ms);
        }
    }

    /// A node reaches no other, whatever is mended.
    pub(super) fn cut_off_for_ever(&mut self, node: usize) {
        self.cut_off(node, FOR_EVER_MS);
    }
}
