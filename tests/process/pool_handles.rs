//! Handles in the arguments, contexts and results of a pool's tasks, under every start method.

use common::for_every_method;
use common::{Gate, alone, failure, in_time, pass, pool_of};
use procpool::{
    Descriptor, ErrorKind, ProcessPoolExecutor, Receiver, Result, Sender, StartMethod, one_way,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::fd::AsFd,
    sync::OnceLock,
    time::Duration,
};

/// More than one message takes.
const MANY: usize = 600;

fn pool(method: StartMethod, workers: usize) -> Result<ProcessPoolExecutor> {
    let builder = ProcessPoolExecutor::builder();
    builder.start_method(method).workers(workers).build()
}

/// A task: sends a number through a handle.
fn send((sender, number): (Sender<u64>, u64)) -> bool {
    sender.send(&number).is_ok()
}

/// A task: a pipe with a number in it.
fn filled(number: u64) -> Receiver<u64> {
    let (receiver, sender) = one_way().expect("a pipe");
    sender.send(&number).expect("room in a pipe");
    receiver
}

/// Both ends of some pipes.
type Pipes = (Vec<Receiver<u64>>, Vec<Sender<u64>>);

fn pipes(count: usize) -> Result<Pipes> {
    let pairs: Result<Vec<_>> = (0..count).map(|_| one_way()).collect();
    Ok(pairs?.into_iter().unzip())
}

#[derive(Serialize, Deserialize)]
struct Context {
    answers: Sender<u64>,
    offset: u64,
}

impl Context {
    fn answer(&self, number: u64) -> bool {
        self.answers.send(&(self.offset + number)).is_ok()
    }
}

static ANSWERS: OnceLock<Sender<u64>> = OnceLock::new();

fn keep(answers: Sender<u64>) -> std::result::Result<(), &'static str> {
    ANSWERS.set(answers).map_err(|_| "it is set already")
}

for_every_method! {
    fn a_task_takes_a_handle_and_gives_one(method) {
        let pool = pool(method, 1)?;
        let (receiver, sender) = one_way()?;
        assert!(pool.apply(send, (sender, 7))?);
        assert_eq!(receiver.recv()?, 7);
        assert_eq!(pool.apply(filled, 8)?.recv()?, 8);
        // The worker's end is closed with the task.
        assert_eq!(failure(receiver.recv()).kind(), ErrorKind::Disconnected);
        Ok(())
    }

    fn items_of_a_map_take_handles_and_give_some(method) {
        let pool = pool(method, 2)?;
        let (receivers, senders) = pipes(100)?;
        let sent = pool.map(send, senders.into_iter().zip(0..))?;
        assert_eq!(sent, [true; 100]);
        let numbers: Result<Vec<u64>> = receivers.iter().map(Receiver::recv).collect();
        assert_eq!(numbers?, Vec::from_iter(0..100));
        let filled = pool.map(filled, 0..100)?;
        let numbers: Result<Vec<u64>> = filled.iter().map(Receiver::recv).collect();
        assert_eq!(numbers?, Vec::from_iter(0..100));
        Ok(())
    }

    fn items_with_and_without_handles_keep_their_order(method) {
        let pool = pool(method, 2)?;
        let (_receiver, sender) = one_way::<u64>()?;
        let mut sender = Some(sender);
        let items = (0..50u64).map(|it| (it, if it == 20 { sender.take() } else { None }));
        let same = |item: (u64, Option<Sender<u64>>)| item;
        let back = pool.map(same, items)?;
        assert!(back.iter().map(|it| it.0).eq(0..50));
        assert!(back.iter().all(|it| it.1.is_some() == (it.0 == 20)));
        Ok(())
    }

    fn a_context_and_an_initializer_hold_handles(method) {
        let (receiver, answers) = one_way()?;
        let builder = ProcessPoolExecutor::builder().start_method(method).workers(2);
        let pool = builder.initializer(keep, answers).build()?;
        let answer = |number| ANSWERS.get().is_some_and(|it| it.send(&number).is_ok());
        assert_eq!(pool.map(answer, 0..20)?, [true; 20]);
        let mut numbers = (0..20).map(|_| receiver.recv()).collect::<Result<Vec<_>>>()?;
        numbers.sort_unstable();
        assert_eq!(numbers, Vec::from_iter(0..20));
        let (receiver, answers) = one_way()?;
        let context = Context { answers, offset: 100 };
        assert_eq!(pool.map_with(context, Context::answer, 0..20)?, [true; 20]);
        let mut numbers = (0..20).map(|_| receiver.recv()).collect::<Result<Vec<_>>>()?;
        numbers.sort_unstable();
        assert_eq!(numbers, Vec::from_iter(100..120));
        Ok(())
    }

    fn many_handles_and_a_large_value_travel_together(method) {
        let pool = pool(method, 1)?;
        let (receivers, senders) = pipes(MANY)?;
        let work = |(senders, bytes): (Vec<Sender<u64>>, Vec<u64>)| {
            let numbered = senders.iter().zip(0..);
            let sent = numbered.filter(|(it, number)| it.send(number).is_ok()).count();
            (sent, bytes, senders)
        };
        let bytes = vec![7u64; 1 << 16];
        let (sent, back, senders) = pool.apply(work, (senders, bytes.clone()))?;
        assert_eq!((sent, senders.len()), (MANY, MANY));
        assert!(back == bytes);
        for (receiver, number) in receivers.iter().zip(0..) {
            assert_eq!(receiver.recv()?, number);
        }
        for (sender, number) in senders.iter().zip(100..) {
            sender.send(&number)?;
        }
        for (receiver, number) in receivers.iter().zip(100..) {
            assert_eq!(receiver.recv()?, number);
        }
        Ok(())
    }
}

#[test]
fn a_cancelled_task_gives_its_handles_back() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        let (receivers, senders) = pipes(20)?;
        let queued: Vec<_> = senders
            .into_iter()
            .map(|it| pool.submit(send, (it, 1)))
            .collect();
        assert!(queued.iter().all(procpool::TaskFuture::cancel));
        gate.open();
        held.result()?;
        // The frames of those that were sent ahead are skipped, and their descriptors closed.
        assert!(pool.apply(|()| true, ())?);
        for receiver in &receivers {
            let failed = failure(receiver.recv_timeout(Duration::from_secs(30)));
            assert_eq!(failed.kind(), ErrorKind::Disconnected);
        }
        Ok(())
    })
}

#[test]
fn tasks_with_handles_outlive_a_worker_that_dies_before_they_start() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let dies = pool.submit(|()| -> () { std::process::abort() }, ());
        let (receivers, senders) = pipes(20)?;
        let sent: Vec<_> = senders
            .into_iter()
            .zip(0..)
            .map(|it| pool.submit(send, it))
            .collect();
        assert_eq!(failure(dies.result()).kind(), ErrorKind::WorkerDied);
        for (sent, (receiver, number)) in sent.into_iter().zip(receivers.iter().zip(0..)) {
            assert!(sent.result()?);
            assert_eq!(receiver.recv()?, number);
        }
        Ok(())
    })
}

#[test]
fn a_callback_and_a_future_both_get_the_handle_of_a_result() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let (told, heard) = std::sync::mpsc::channel();
        let called = move |result: &Result<Receiver<u64>>| {
            let is_there = result
                .as_ref()
                .is_ok_and(|it| it.poll(Duration::ZERO).is_ok_and(|it| it));
            told.send(is_there).expect("the test waits");
        };
        let future = pool.apply_async(filled, 5, called);
        assert!(heard.recv().expect("the callback"));
        assert_eq!(future.result()?.recv()?, 5);
        Ok(())
    })
}

#[test]
fn results_with_more_handles_than_lie_in_a_socket_come_while_nobody_looks() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        // Some 280 messages fill a socket's buffer.
        let all = pool.map_async(filled, 0..1000);
        let receivers = all.result()?;
        let numbers: Result<Vec<u64>> = receivers.iter().map(Receiver::recv).collect();
        assert_eq!(numbers?, Vec::from_iter(0..1000));
        Ok(())
    })
}

#[test]
fn an_open_file_travels_to_a_task_and_back() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let file = tempfile::tempfile().expect("a temporary file");
        let write = |file: Descriptor| {
            let mut file = File::from(file.into_fd().expect("a descriptor"));
            file.write_all(b"written by a task")
                .expect("room on the disk");
            Descriptor::from(file)
        };
        let back = pool.apply(write, Descriptor::from(file))?;
        let mut file = File::from(back.into_fd()?);
        let mut text = String::new();
        file.rewind().expect("a file");
        file.read_to_string(&mut text).expect("a file");
        assert_eq!(text, "written by a task");
        Ok(())
    })
}

#[test]
fn a_handle_that_was_taken_is_not_kept_by_its_future() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let (receiver, sender) = one_way::<u64>()?;
        let mut future = pool.submit(|sender: Sender<u64>| sender, sender);
        let back = future.result_timeout(Duration::MAX)?;
        drop(back);
        assert_eq!(failure(receiver.recv()).kind(), ErrorKind::Disconnected);
        assert!(future.is_done() && !future.cancel());
        assert_eq!(failure(future.result()).kind(), ErrorKind::InvalidInput);
        Ok(())
    })
}

#[test]
fn what_the_kernel_has_no_room_for_is_sent_later() {
    // Root is not subject to the limit on descriptors that are on their way.
    alone("ulimit -n 600", || {
        let pool = pool_of(4);
        let (_receiver, sender) = one_way::<u64>().expect("a pipe");
        let sender = Descriptor::from(sender.as_fd().try_clone_to_owned().expect("a duplicate"));
        let many = || vec![sender.clone(); 300];
        let given = |_: Vec<Descriptor>| true;
        let sent = pool.map(given, (0..100).map(|_| many()));
        assert_eq!(sent.expect("all arrive").len(), 100);
        let back = pool.map_results(
            |it: Vec<Descriptor>| it[..200].to_vec(),
            (0..50).map(|_| many()),
        );
        assert!(back.into_iter().flatten().all(|it| it.len() == 200));
    });
}

#[test]
fn more_handles_than_a_worker_has_room_for_fail_alone_and_are_closed() {
    alone("ulimit -n 500", || {
        let pool = pool_of(1);
        let (receiver, sender) = one_way::<u64>().expect("a pipe");
        let descriptor =
            Descriptor::from(sender.as_fd().try_clone_to_owned().expect("a duplicate"));
        drop(sender);
        let error = failure(pool.apply(|_: Vec<Descriptor>| (), vec![descriptor; 1500]));
        assert!(
            matches!(error.kind(), ErrorKind::Codec | ErrorKind::Io),
            "{error}"
        );
        assert!(pool.apply(|()| true, ()).is_ok());
        // Not even a part of them is open in the worker.
        assert_eq!(failure(receiver.recv()).kind(), ErrorKind::Disconnected);
    });
}

#[test]
fn contexts_with_handles_do_not_pile_up_at_a_busy_worker() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        gate.wait_for(1);
        for number in 0..400 {
            let (receiver, answers) = one_way()?;
            let context = Context { answers, offset: 1 };
            assert_eq!(pool.map_with(context, Context::answer, [number])?, [true]);
            assert_eq!(receiver.recv()?, number + 1);
        }
        gate.open();
        held.result()
    })
}
