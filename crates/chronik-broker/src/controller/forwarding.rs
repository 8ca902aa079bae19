//! Asking the controller: for images that are as new as everybody's, and for what only the controller knows.

use std::sync::Arc;

use bytes::Bytes;
use chronik_raft::ProposeError;
use chronik_raft::metadata::MetadataImage;
use chronik_types::NodeId;

use crate::broker::Broker;

/// Hears the answer to a request that another node was asked: a whole response frame, or nothing where there was no
/// answer.
pub type Answered = Box<dyn FnOnce(Option<Bytes>) + Send>;

/// Asks another broker of the cluster a client's request.
pub trait ControllerLink: Send + Sync {
    /// Has the node `to` answer `frame`, a request without its length, as long as it leads the metadata log. Does not
    /// wait; `done` is called once, at the latest after a few seconds.
    fn ask(&self, to: NodeId, frame: Bytes, done: Answered);
}

impl Broker {
    /// Sets how other brokers are asked. Only the first call counts; without one, this broker is alone.
    pub fn set_controller_link(&self, link: Arc<dyn ControllerLink>) {
        if self.controller_link.set(link).is_err() {
            tracing::debug!("the way to the controller is set already");
        }
    }

    /// Runs `then` with an image that holds all that any node has answered until now. A client may send one request to
    /// one node and the next to another; it must find what it has just been told.
    pub(crate) fn with_fresh_image(
        &self,
        then: impl FnOnce(Result<Arc<MetadataImage>, ProposeError>) + Send + 'static,
    ) {
        self.metadata.barrier(Box::new(then));
    }
}
