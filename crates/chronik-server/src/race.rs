//! Waiting for whichever of two things comes first.

use std::pin::pin;
use std::task::Poll;

/// Which of two futures was ready first.
pub(crate) enum Either<A, B> {
    /// The first.
    First(A),
    /// The second.
    Second(B),
}

/// Runs two futures until one is ready; the other is dropped. Where both are, the first counts.
pub(crate) async fn race<A: Future, B: Future>(first: A, second: B) -> Either<A::Output, B::Output> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    std::future::poll_fn(move |context| {
        if let Poll::Ready(output) = first.as_mut().poll(context) {
            return Poll::Ready(Either::First(output));
        }
        second.as_mut().poll(context).map(Either::Second)
    })
    .await
}
