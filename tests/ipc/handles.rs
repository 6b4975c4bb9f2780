//! Handles as parts of messages.

use common::processes::{self, descriptors_of, eventually};
use common::{A_MOMENT, DEADLINE, alone, failure, in_time};
use nix::fcntl::{FcntlArg, fcntl};
use procpool::{Connection, Descriptor, ErrorKind, Process, Receiver, Sender, one_way, pipe};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::File,
    process,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

#[derive(Debug, Serialize, Deserialize)]
struct Job {
    name: String,
    answer: Sender<String>,
    inputs: Vec<Receiver<u32>>,
    both: Option<Connection<u8, u8>>,
}

#[test]
fn handles_travel_in_values() {
    in_time(|| {
        let (jobs, to_do) = one_way().expect("a pipe");
        let (answers, answer) = one_way().expect("a pipe");
        let (input, feed) = one_way().expect("a pipe");
        let (ours, theirs) = pipe::<u8, u8>().expect("a pipe");
        let job = Job {
            name: "sum".to_owned(),
            answer,
            inputs: vec![input],
            both: Some(theirs),
        };
        to_do.send(&job).expect("the other end");
        drop(job);
        thread::spawn(move || {
            let job: Job = jobs.recv().expect("a job");
            let sum = job.inputs[0].recv().expect("a number") + 1;
            job.answer
                .send(&format!("{} {sum}", job.name))
                .expect("the other end");
            let both = job.both.expect("it was there");
            both.send(&both.recv().expect("a number"))
                .expect("the other end");
        });
        feed.send(&41).expect("the other end");
        assert_eq!(answers.recv().expect("an answer"), "sum 42");
        ours.send(&7).expect("the other end");
        assert_eq!(ours.recv().expect("an answer"), 7);
        assert_eq!(failure(answers.recv()).kind(), ErrorKind::Disconnected);
    });
}

#[test]
fn hundreds_of_handles_travel_at_once() {
    alone("ulimit -n 4096", || {
        let (ours, theirs) = pipe::<Vec<Sender<usize>>, ()>().expect("a pipe");
        let (receivers, senders): (Vec<_>, Vec<_>) =
            (0..300).map(|_| one_way().expect("a pipe")).unzip();
        ours.send(&senders).expect("the other end");
        drop(senders);
        let senders = theirs.recv().expect("a message");
        for (number, sender) in senders.iter().enumerate() {
            sender.send(&number).expect("the other end");
        }
        drop(senders);
        for (number, receiver) in receivers.iter().enumerate() {
            assert_eq!(receiver.recv().expect("a message"), number);
            assert_eq!(failure(receiver.recv()).kind(), ErrorKind::Disconnected);
        }
    });
}

#[test]
fn handles_without_room_are_an_error_of_their_message() {
    alone("ulimit -n 64", || {
        let (ours, theirs) = pipe::<Vec<Sender<usize>>, ()>().expect("a pipe");
        let (receivers, senders): (Vec<_>, Vec<_>) =
            (0..10).map(|_| one_way().expect("a pipe")).unzip();
        // Sent twice, 20 descriptors each, where there is room for 10 more.
        for _ in 0..2 {
            ours.send(&senders).expect("the other end");
        }
        assert_eq!(failure(theirs.recv()).kind(), ErrorKind::Codec);
        drop((receivers, senders));
        assert_eq!(theirs.recv().expect("a message").len(), 10);
    });
}

#[test]
fn messages_with_handles_leave_nothing_behind() {
    alone("", || {
        let (ours, theirs) = pipe::<(Vec<u8>, Sender<u8>), ()>().expect("a pipe");
        let own = || descriptors_of(process::id()).len();
        let before = own();
        for round in 0..100 {
            let (receiver, sender) = one_way().expect("a pipe");
            ours.send(&(vec![7; 200 * round], sender))
                .expect("the other end");
            match round % 3 {
                // Not decoded: its handle is closed.
                0 => drop(theirs.recv_bytes().expect("a message")),
                1 => drop(theirs.recv().expect("a message")),
                _ => {
                    let error = failure(theirs.recv_bytes_into(&mut [0; 4]));
                    assert_eq!(error.kind(), ErrorKind::InvalidInput);
                    drop(theirs.recv().expect("a message"));
                }
            }
            assert_eq!(failure(receiver.recv()).kind(), ErrorKind::Disconnected);
        }
        assert_eq!(own(), before);
    });
}

/// A copy of a handle, as another process has one.
fn copy_of<T: Serialize + DeserializeOwned + 'static>(handle: T) -> (T, T) {
    let (receiver, sender) = one_way().expect("a pipe");
    sender.send(&handle).expect("the other end");
    (handle, receiver.recv().expect("a message"))
}

/// A number, and where it is to be sent.
type Number = (u32, Sender<u32>);

/// Says that it is there, and sends a message.
fn sends((ready, sender, number): (Sender<()>, Sender<Number>, Number)) {
    ready.send(&()).expect("the other end");
    // It is killed meanwhile.
    let _ = sender.send(&number);
}

#[test]
fn handles_of_a_killed_sender_go_to_no_other_message() {
    in_time(|| {
        let (receiver, sender) = one_way::<Number>().expect("a pipe");
        let room = fcntl(&sender, FcntlArg::F_GETPIPE_SZ).expect("a pipe");
        let messages = room / 4096;
        for _ in 0..messages {
            sender.send_bytes(&[0; 4088]).expect("the other end");
        }
        // 1. A process sends its handle, 2. waits for room for the message, 3. is killed. 4.
        //    Another message is sent.
        let (sender, copy) = copy_of(sender);
        let (is_ready, ready) = one_way().expect("a pipe");
        let number = (1, one_way().expect("a pipe").1);
        let process = Process::start(sends, (ready, copy, number)).expect("a process");
        is_ready.recv().expect("a message");
        let pid = process.pid();
        eventually("it waits for room", || processes::process(pid).state == 'S');
        process.kill().expect("a process");
        process.join().expect("a process");
        for _ in 0..messages {
            receiver.recv_bytes().expect("a message");
        }
        let (numbers, to) = one_way().expect("a pipe");
        sender.send(&(2, to)).expect("the other end");
        let (number, to) = receiver.recv().expect("a message");
        // Sending into a wrong pipe, which has no reader, fails.
        let _ = to.send(&number);
        assert_eq!(numbers.recv_timeout(DEADLINE / 10).expect("a number"), 2);
    });
}

#[test]
fn handles_stay_with_their_messages_when_processes_share_the_end_that_sends() {
    in_time(|| {
        let (receiver, sender) = one_way::<Number>().expect("a pipe");
        let (sender, copy) = copy_of(sender);
        let (sender, another) = copy_of(sender);
        let send_all = |sender: Sender<Number>, first| {
            for number in (first..1500).step_by(3) {
                let (numbers, to) = one_way().expect("a pipe");
                sender.send(&(number, to)).expect("the other end");
                assert_eq!(numbers.recv().expect("a number"), number);
            }
        };
        thread::scope(|scope| {
            for (first, sender) in (0..).zip([sender, copy, another]) {
                scope.spawn(move || send_all(sender, first));
            }
            while let Ok((number, to)) = receiver.recv() {
                // The process that waits for it finds out.
                let _ = to.send(&number);
            }
        });
    });
}

#[test]
fn processes_that_share_the_end_that_receives_swap_no_handles() {
    in_time(|| {
        let (receiver, sender) = one_way::<Number>().expect("a pipe");
        let (receiver, copy) = copy_of(receiver);
        let receive_all = |receiver: Receiver<Number>| {
            loop {
                match receiver.recv() {
                    Ok((number, to)) => to.send(&number).expect("the other end"),
                    // The other one has its handle.
                    Err(error) if error.kind() == ErrorKind::Codec => {}
                    Err(_) => break,
                }
            }
        };
        let numbers: Vec<Receiver<u32>> = thread::scope(|scope| {
            for receiver in [receiver, copy] {
                scope.spawn(move || receive_all(receiver));
            }
            let send = |number| {
                let (numbers, to) = one_way().expect("a pipe");
                sender.send(&(number, to)).expect("the other end");
                numbers
            };
            let sent = (0..200).map(send).collect();
            drop(sender);
            sent
        });
        for (number, received) in (0..).zip(numbers) {
            match received.recv() {
                Ok(received) => assert_eq!(received, number),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Disconnected),
            }
        }
    });
}

/// Without the right of the superuser to have any number of descriptors on their way.
const LIMITED: &str = r#"ulimit -n 1024
if [ "$(id -u)" = 0 ] && command -v setpriv > /dev/null; then
    exec setpriv --bounding-set=-sys_resource,-sys_admin --inh-caps=-all "$0" "$@"
fi"#;

#[test]
fn a_sender_waits_while_too_many_handles_are_on_their_way() {
    alone(LIMITED, || {
        let (receiver, sender) = one_way::<Vec<Descriptor>>().expect("a pipe");
        let file = File::open("/dev/null").expect("a file");
        let files = vec![Descriptor::from(file); 100];
        let sent = AtomicUsize::new(0);
        thread::scope(|scope| {
            let sent = &sent;
            scope.spawn(move || {
                for _ in 0..30 {
                    sender.send(&files).expect("room, some time");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
            // That is as many as may be on their way, unless the user's other programs have some
            // there.
            let end = Instant::now() + 10 * A_MOMENT;
            eventually("there is no more room", || {
                sent.load(Ordering::Relaxed) > 10 || Instant::now() > end
            });
            for _ in 0..30 {
                receiver.recv().expect("a message");
            }
        });
    });
}
