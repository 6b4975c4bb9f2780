//! Handles that travel: in arguments and results of processes, under every start method.

use common::for_every_method;
use common::methods::{in_a_process_with_one_thread, start};
use common::{failure, in_time};
use procpool::{
    Connection, ErrorKind, Process, Receiver, Result, Sender, StartMethod, one_way, pipe,
};
use serde::{Deserialize, Serialize};
use std::sync::Mutex;

#[derive(Serialize, Deserialize)]
struct Job {
    name: String,
    answer: Sender<i64>,
    inputs: Vec<Receiver<String>>,
}

for_every_method! {
    fn a_conversation(method) {
        let (parent, child) = pipe::<u64, String>()?;
        let converse = |child: Connection<String, u64>| {
            // Not until the end of the connection: a fork has a copy of the parent's end.
            for _ in 0..100 {
                let number = child.recv().expect("a number");
                child.send(&number.to_string()).expect("a parent");
            }
        };
        let process = start(method, converse, child)?;
        for number in 0..100 {
            parent.send(&number)?;
            assert_eq!(parent.recv()?, number.to_string());
        }
        assert!(process.join()?.success());
        Ok(())
    }

    fn a_child_that_ends_is_the_end_of_its_connection(method) {
        let (receiver, sender) = one_way()?;
        let process = start(method, |sender: Sender<u64>| drop(sender.send(&42)), sender)?;
        assert_eq!(receiver.recv()?, 42);
        assert_eq!(failure(receiver.recv()).kind(), ErrorKind::Disconnected);
        process.result()
    }

    fn handles_lie_in_structs_and_lists(method) {
        let (answers, answer) = one_way()?;
        let mut inputs = Vec::new();
        for number in 0..20 {
            let (receiver, sender) = one_way::<String>()?;
            sender.send(&format!("input {number}"))?;
            inputs.push(receiver);
        }
        let work = |job: Job| {
            let texts = job.inputs.iter().filter_map(|input| input.recv().ok());
            let read = texts.filter(|text| text.starts_with("input")).count();
            (job.name, job.answer.send(&(read as i64)).is_ok())
        };
        let job = Job { name: "bob".to_owned(), answer, inputs };
        assert_eq!(start(method, work, job)?.result()?, ("bob".to_owned(), true));
        assert_eq!(answers.recv()?, 20);
        Ok(())
    }

    fn a_handle_comes_back_as_a_result(method) {
        let (receiver, sender) = one_way::<u64>()?;
        let back = start(method, |it: Receiver<u64>| it, receiver)?.result()?;
        sender.send(&7)?;
        assert_eq!(back.recv()?, 7);
        let made = |()| one_way::<u64>().map(|(receiver, sender)| {
            let sent = sender.send(&8);
            (receiver, sent.is_ok())
        }).map_err(|it| it.to_string());
        let (receiver, sent) = start(method, made, ())?.result()?.expect("a pipe");
        assert!(sent);
        assert_eq!(receiver.recv()?, 8);
        Ok(())
    }
}

/// What copies of this process find.
static SHARED: Mutex<Option<Process<Receiver<u64>>>> = Mutex::new(None);

/// Joins the process that this one's original has started, and asks for its result.
fn ask_in_a_copy((): ()) -> bool {
    let shared = SHARED.lock().expect("no panic").take();
    let process = shared.expect("the original has put it there");
    process.join().expect("it ends");
    process
        .result()
        .is_err_and(|it| it.kind() == ErrorKind::Unsupported)
}

#[test]
fn a_copy_of_the_starter_takes_neither_the_end_nor_the_handles_of_a_process() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            for method in StartMethod::ALL {
                let (receiver, sender) = one_way::<u64>().expect("a connection");
                let process = start(method, |it: Receiver<u64>| it, receiver);
                *SHARED.lock().expect("no panic") = Some(process.expect("a process"));
                let copy = start(StartMethod::Fork, ask_in_a_copy, ());
                assert_eq!(copy.and_then(Process::result).ok(), Some(true));
                let process = SHARED.lock().expect("no panic").take().expect("a process");
                assert_eq!(process.join().expect("an end").code(), Some(0));
                sender.send(&7).expect("room");
                let receiver = process.result().expect("a result");
                assert_eq!(receiver.recv().ok(), Some(7));
            }
            Ok(())
        })
    })
}
