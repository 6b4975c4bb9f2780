//! The handlers of a queue's methods in the server.

use crate::error::ErrorKind;
use crate::manager::{
    protocol::HandlerResult,
    server::wait_queue::{WaitLimit, WaitQueue, wait_until},
    server::{Server, Session},
};
use crate::process::function::{CallError, Invocation};
use crate::wire::{Wire, codec};
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc, time::Duration};

pub(super) struct ServerQueue<T>(Arc<Mutex<ServerQueueState<T>>>);

struct ServerQueueState<T> {
    items: VecDeque<T>,
    capacity: usize,
    is_closed: bool,
    /// Items that were put and are not marked as done.
    unfinished: usize,
    getters: WaitQueue,
    putters: WaitQueue,
    joiners: WaitQueue,
}

/// Creates a queue.
pub(in crate::manager) fn create<T: Wire + Send + 'static>(
    server: &Server,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let capacity = call.decode()?;
    if capacity == 0 {
        let message = "a queue cannot have a capacity of 0";
        return Err(CallError::Refused(
            ErrorKind::InvalidInput,
            message.to_owned(),
        ));
    }
    let state = ServerQueueState::<T> {
        items: VecDeque::new(),
        capacity,
        is_closed: false,
        unfinished: 0,
        getters: WaitQueue::fifo(),
        putters: WaitQueue::fifo(),
        joiners: WaitQueue::broadcast(),
    };
    server.create(ServerQueue(Arc::new(Mutex::new(state))), call)
}

pub(super) fn put<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let item = call.decode()?;
    queue.put(item, WaitLimit::Forever, call)
}

pub(super) fn try_put<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let item = call.decode()?;
    queue.put(item, WaitLimit::Never, call)
}

pub(super) fn put_timeout<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    use codec::ByteSource;
    let (mut seconds, mut nanos) = ([0; 8], [0; 4]);
    if !call.argument.take(&mut seconds) || !call.argument.take(&mut nanos) {
        return Err(CallError::Decode("the message ends too early".to_owned()));
    }
    let (seconds, nanos) = (u64::from_le_bytes(seconds), u32::from_le_bytes(nanos));
    let limit = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()));
    let item = call.decode()?;
    queue.put(item, WaitLimit::AtMost(limit), call)
}

impl<T: Wire + Send + 'static> ServerQueue<T> {
    fn put(&self, item: T, wait: WaitLimit, call: &Invocation<'_>) -> HandlerResult {
        let mut item = Some(item);
        let attempt = |it: &mut ServerQueueState<T>| {
            if it.is_closed {
                return Some(Err(err_closed()));
            }
            (it.items.len() < it.capacity).then(|| {
                it.items.extend(item.take());
                it.unfinished += 1;
                it.getters.wake();
                Ok(())
            })
        };
        let put = wait_until(
            &self.0,
            |it| &mut it.putters,
            Session::of(call),
            wait,
            attempt,
        );
        put.map_err(|it| it.into_call_error(wait, ErrorKind::Full, "the queue is full"))?
    }

    /// Puts items that no client has received back at the front.
    fn requeue(&self, items: impl DoubleEndedIterator<Item = T>) {
        let mut state = self.0.lock();
        items.rev().for_each(|it| state.items.push_front(it));
        state.getters.wake();
    }

    fn requeue_if_undelivered<I>(&self, items: I, session: &Session)
    where
        I: IntoIterator<Item = T, IntoIter: DoubleEndedIterator> + Send + 'static,
    {
        let queue = Self(Arc::clone(&self.0));
        session.on_undelivered(move || queue.requeue(items.into_iter()));
    }
}

pub(super) fn get<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let (wait, session): (WaitLimit, _) = (call.decode()?, Session::of(call));
    let attempt = |it: &mut ServerQueueState<T>| match it.items.pop_front() {
        None => it.is_closed.then(|| Err(err_closed())),
        Some(item) => {
            it.putters.wake();
            Some(Ok(item))
        }
    };
    let got = wait_until(&queue.0, |it| &mut it.getters, session, wait, attempt);
    let item =
        got.map_err(|it| it.into_call_error(wait, ErrorKind::Empty, "the queue is empty"))??;
    call.encode(&item)?;
    queue.requeue_if_undelivered([item], session);
    Ok(())
}

pub(super) fn put_many<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let items: Vec<T> = call.decode()?;
    if items.is_empty() {
        return Ok(());
    }
    let mut items = items.into_iter().peekable();
    let attempt = |it: &mut ServerQueueState<T>| {
        if it.is_closed && items.peek().is_some() {
            return Some(Err(err_closed()));
        }
        let room = it.capacity.saturating_sub(it.items.len());
        let before = it.items.len();
        it.items.extend(items.by_ref().take(room));
        it.unfinished += it.items.len() - before;
        it.getters.wake();
        items.peek().is_none().then_some(Ok(()))
    };
    let put = wait_until(
        &queue.0,
        |it| &mut it.putters,
        Session::of(call),
        WaitLimit::Forever,
        attempt,
    );
    put.map_err(|it| it.into_call_error(WaitLimit::Forever, ErrorKind::Full, "the queue is full"))?
}

pub(super) fn get_many<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let (max, session): (usize, _) = (call.decode()?, Session::of(call));
    if max == 0 {
        return call.encode(&Vec::<T>::new());
    }
    let attempt = |it: &mut ServerQueueState<T>| {
        if it.items.is_empty() {
            return it.is_closed.then(|| Err(err_closed()));
        }
        let count = max.min(it.items.len());
        let items: Vec<T> = it.items.drain(..count).collect();
        it.putters.wake();
        Some(Ok(items))
    };
    let wait = WaitLimit::Forever;
    let got = wait_until(&queue.0, |it| &mut it.getters, session, wait, attempt);
    let items =
        got.map_err(|it| it.into_call_error(wait, ErrorKind::Empty, "the queue is empty"))??;
    if let Err(error) = call.encode_slice(&items) {
        // Only some items cannot be encoded. The others go back to the front for the next caller.
        let others: Vec<T> = items
            .into_iter()
            .filter(|item| call.encode(item).is_ok())
            .collect();
        queue.requeue(others.into_iter());
        return Err(error);
    }
    queue.requeue_if_undelivered(items, session);
    Ok(())
}

pub(super) fn size<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let size = {
        let state = queue.0.lock();
        (state.items.len(), state.capacity)
    };
    call.encode(&size)
}

pub(super) fn close<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    _: &mut Invocation<'_>,
) -> HandlerResult {
    let mut state = queue.0.lock();
    state.is_closed = true;
    state.getters.wake();
    state.putters.wake();
    Ok(())
}

pub(super) fn task_done<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    _: &mut Invocation<'_>,
) -> HandlerResult {
    let mut state = queue.0.lock();
    let Some(unfinished) = state.unfinished.checked_sub(1) else {
        let message = "more items are marked as done than were put";
        return Err(CallError::Refused(
            ErrorKind::InvalidInput,
            message.to_owned(),
        ));
    };
    state.unfinished = unfinished;
    state.joiners.wake();
    Ok(())
}

pub(super) fn join<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let wait: WaitLimit = call.decode()?;
    let attempt = |it: &mut ServerQueueState<T>| (it.unfinished == 0).then_some(());
    let joined = wait_until(
        &queue.0,
        |it| &mut it.joiners,
        Session::of(call),
        wait,
        attempt,
    );
    joined.map_err(|it| it.into_call_error(wait, ErrorKind::WouldBlock, "some items are not done"))
}

fn err_closed() -> CallError {
    let message = "the queue is closed";
    CallError::Refused(ErrorKind::Disconnected, message.to_owned())
}
