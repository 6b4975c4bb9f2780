//! Queues do what a list with two flags does, whichever process calls what and is killed when.

use crate::runner;
use procpool::{Connection, ErrorKind, Process, Queue, Result, pipe};
use proptest::{collection::vec, prelude::*};
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, time::Duration};

/// A number that no other item has, and bytes.
type Item = (u64, Vec<u8>);

/// Processes that use a queue at a time.
const ACTORS: usize = 3;

/// What a process is asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Command {
    TryPut(Item),
    PutMany(Vec<Item>),
    TryGet,
    GetMany(usize),
    Close,
}

/// What has come of it.
type Outcome = std::result::Result<Vec<Item>, ErrorKind>;

/// A process that does what it is asked to.
struct Actor {
    process: Process<()>,
    line: Connection<Command, Outcome>,
}

fn act((queue, line): (Queue<Item>, Connection<Outcome, Command>)) {
    while let Ok(command) = line.recv() {
        let outcome = run(&queue, command).map_err(|it| it.kind());
        line.send(&outcome).expect("room");
    }
}

fn run(queue: &Queue<Item>, command: Command) -> Result<Vec<Item>> {
    match command {
        Command::TryPut(item) => queue.try_put(&item).map(|()| Vec::new()),
        Command::PutMany(items) => queue.put_many(&items).map(|()| Vec::new()),
        Command::TryGet => queue.try_get().map(|it| vec![it]),
        Command::GetMany(most) => queue.get_many(most),
        Command::Close => {
            queue.close();
            Ok(Vec::new())
        }
    }
}

impl Actor {
    fn start(queue: &Queue<Item>) -> Self {
        let (line, theirs) = pipe().expect("a pipe");
        let process = Process::start(act, (queue.clone(), theirs));
        let process = process.expect("a process");
        Self { process, line }
    }

    /// Kills it, at any place in what it does.
    fn kill(self) {
        self.process.kill().expect("a child of this process");
        self.process.join().expect("a child of this process");
    }
}

/// What a queue is.
#[derive(Debug)]
struct Model {
    items: VecDeque<Item>,
    capacity: usize,
    is_closed: bool,
}

impl Model {
    fn room(&self) -> usize {
        self.capacity - self.items.len()
    }

    /// Whether a queue would wait in this call.
    fn waits(&self, command: &Command) -> bool {
        match command {
            Command::PutMany(items) => !self.is_closed && items.len() > self.room(),
            Command::GetMany(_) => !self.is_closed && self.items.is_empty(),
            _ => false,
        }
    }

    fn run(&mut self, command: Command) -> Outcome {
        match command {
            Command::Close => self.is_closed = true,
            Command::TryPut(_) | Command::PutMany(_) if self.is_closed => {
                return Err(ErrorKind::Disconnected);
            }
            Command::TryPut(_) if self.room() == 0 => return Err(ErrorKind::Full),
            Command::TryPut(item) => self.items.push_back(item),
            Command::PutMany(items) => self.items.extend(items),
            Command::TryGet => return self.get(1),
            Command::GetMany(most) => return self.get(most),
        }
        Ok(Vec::new())
    }

    fn get(&mut self, most: usize) -> Outcome {
        match self.items.len() {
            0 if self.is_closed => Err(ErrorKind::Disconnected),
            0 => Err(ErrorKind::Empty),
            there => Ok(self.items.drain(..most.min(there)).collect()),
        }
    }
}

/// A step of a case. The items of commands get their numbers later.
#[derive(Debug, Clone)]
enum Step {
    Calls(usize, Command),
    /// Is killed while it does that, before, or after.
    DiesIn(usize, Command),
}

fn commands() -> impl Strategy<Value = Command> {
    let item = || {
        let length = prop_oneof![6 => 0..100usize, 2 => 1000..5000usize, 1 => 50_000..150_000usize];
        length.prop_map(|it| (0, vec![0x5a; it]))
    };
    prop_oneof![
        8 => item().prop_map(Command::TryPut),
        4 => vec(item(), 1..6).prop_map(Command::PutMany),
        8 => Just(Command::TryGet),
        4 => (1..6usize).prop_map(Command::GetMany),
        1 => Just(Command::Close),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let actor = || 0..ACTORS;
    let step = prop_oneof![
        9 => (actor(), commands()).prop_map(|(actor, it)| Step::Calls(actor, it)),
        1 => (actor(), commands()).prop_map(|(actor, it)| Step::DiesIn(actor, it)),
    ];
    vec(step, 1..60)
}

/// A queue, its users, and what it must be.
struct Case {
    queue: Queue<Item>,
    actors: Vec<Actor>,
    model: Model,
    last: u64,
}

impl Case {
    fn new(capacity: Option<usize>) -> Self {
        let queue = capacity.map_or_else(Queue::unbounded, Queue::bounded);
        let queue = queue.expect("a queue");
        Self {
            actors: (0..ACTORS).map(|_| Actor::start(&queue)).collect(),
            model: Model {
                items: VecDeque::new(),
                capacity: capacity.unwrap_or(usize::MAX),
                is_closed: false,
            },
            queue,
            last: 0,
        }
    }

    fn numbered(&mut self, mut command: Command) -> Command {
        let items = match &mut command {
            Command::TryPut(item) => std::slice::from_mut(item),
            Command::PutMany(items) => items,
            _ => &mut [],
        };
        for item in items {
            self.last += 1;
            item.0 = self.last;
        }
        command
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let (Step::Calls(_, command) | Step::DiesIn(_, command)) = &step;
        if self.model.waits(command) {
            return Ok(());
        }
        match step {
            Step::Calls(actor, command) => self.call(actor, command)?,
            Step::DiesIn(actor, command) => self.die_in(actor, command)?,
        }
        prop_assert_eq!(self.queue.len(), self.model.items.len());
        Ok(())
    }

    fn call(&mut self, actor: usize, command: Command) -> Result<(), TestCaseError> {
        let command = self.numbered(command);
        let line = &self.actors[actor].line;
        line.send(&command).expect("a process that listens");
        let outcome = line.recv_timeout(Duration::from_secs(60));
        prop_assert_eq!(outcome.expect("an answer"), self.model.run(command));
        Ok(())
    }

    /// What a killed process was doing is done as a whole or not at all, which the number of items
    /// tells. Of what it takes from several chunks, the first may be gone.
    fn die_in(&mut self, actor: usize, command: Command) -> Result<(), TestCaseError> {
        let command = self.numbered(command);
        let next = Actor::start(&self.queue);
        let actor = std::mem::replace(&mut self.actors[actor], next);
        actor.line.send(&command).expect("a process that listens");
        actor.kill();
        if let Command::Close = command {
            // Nothing but a put would tell.
            self.queue.close();
            self.model.is_closed = true;
        }
        let (before, now) = (self.model.items.len(), self.queue.len());
        if now < before {
            // They are gone with the process.
            let taken = self.model.get(before - now).map(|it| it.len());
            let most = match command {
                Command::TryGet => 1,
                Command::GetMany(most) => most,
                _ => 0,
            };
            prop_assert!(taken.is_ok_and(|it| it <= most));
        } else if now > before {
            prop_assert!(self.model.run(command).is_ok());
        }
        Ok(())
    }

    /// All that is left comes out in its order.
    fn end(mut self) -> Result<(), TestCaseError> {
        self.queue.close();
        self.model.is_closed = true;
        loop {
            let got = self.queue.try_get().map(|it| vec![it]);
            let got = got.map_err(|it| it.kind());
            prop_assert_eq!(&got, &self.model.get(1));
            if got.is_err() {
                break;
            }
        }
        self.actors.into_iter().for_each(Actor::kill);
        Ok(())
    }
}

#[test]
fn a_queue_is_a_list_whoever_calls_and_dies() {
    let capacities = prop_oneof![Just(None), (1..8usize).prop_map(Some)];
    let checked = runner(16).run(&(capacities, steps()), |(capacity, steps)| {
        let mut case = Case::new(capacity);
        steps.into_iter().try_for_each(|it| case.step(it))?;
        case.end()
    });
    checked.unwrap_or_else(|it| panic!("{it}"));
}
