//! The bounded way to the committer: many tasks hand in work, one thread takes it in groups.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::Instant,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    batch::Batch,
    commit::Committer,
    error::{Result, StoreError},
};

/// Weight (about kilobytes) of all batches that may wait. Who comes when it is full waits: that is the back-pressure.
const ROOM: u32 = 16 * 1024;
/// What one group may weigh: bounds how long its first member waits for the flush.
const GROUP: usize = 4 * 1024;

pub(crate) type Job = Box<dyn FnOnce(&mut Committer) + Send>;

pub(crate) struct Commit {
    pub(crate) batch: Batch,
    pub(crate) reply: oneshot::Sender<Result<()>>,
    /// Gives the room back when the batch is gone.
    _room: OwnedSemaphorePermit,
    weight: usize,
}

pub(crate) enum Request {
    Commit(Box<Commit>),
    Job(Job),
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    closed: bool,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    room: Arc<Semaphore>,
}

/// What the committer finds.
pub(crate) enum Taken {
    Group(Vec<Request>),
    /// Something of the committer's own is due.
    Due,
    Closed,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), ready: Condvar::new(), room: Arc::new(Semaphore::new(ROOM as usize)) }
    }

    pub(crate) async fn commit(&self, batch: Batch) -> Result<()> {
        let weight = batch.weight();
        let permits = u32::try_from(weight).unwrap_or(ROOM).min(ROOM);
        let room = self.room.clone().acquire_many_owned(permits).await.map_err(|_| StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.push(Request::Commit(Box::new(Commit { batch, reply, _room: room, weight })))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    pub(crate) fn push(&self, request: Request) -> Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(StoreError::Closed);
        }
        state.requests.push_back(request);
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// The next group: commits up to a weight, or a single job. Waits until there is one or `due` has come.
    pub(crate) fn take(&self, due: Option<Instant>) -> Taken {
        let mut state = self.state.lock();
        while state.requests.is_empty() {
            if state.closed {
                return Taken::Closed;
            }
            match due {
                None => self.ready.wait(&mut state),
                Some(due) => {
                    if self.ready.wait_until(&mut state, due).timed_out() && state.requests.is_empty() {
                        return if state.closed { Taken::Closed } else { Taken::Due };
                    }
                }
            }
        }
        let mut group = Vec::new();
        let mut weight = 0;
        while let Some(request) = state.requests.pop_front() {
            match request {
                Request::Commit(commit) => {
                    weight += commit.weight;
                    group.push(Request::Commit(commit));
                    if weight >= GROUP {
                        break;
                    }
                }
                job if group.is_empty() => return Taken::Group(vec![job]),
                job => {
                    state.requests.push_front(job);
                    break;
                }
            }
        }
        Taken::Group(group)
    }

    /// What is in the queue is still done; nothing more is taken.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.room.close();
        self.ready.notify_all();
    }

    /// The committer is gone: whoever waits learns it.
    pub(crate) fn abandon(&self) {
        self.close();
        self.state.lock().requests.clear();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future that needs no runtime on this thread. Unlike tokio's `block_on` it works inside a runtime too (where
/// it holds up that worker, so asynchronous code should rather await).
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
