//! The limit of nesting: a value that is too deep is an error wherever it is encoded or decoded,
//! and overflows no stack.

use common::methods::start;
use common::{DEADLINE, alone, failure, for_every_method, in_time};
use procpool::{
    Error, ErrorKind, Manager, Process, ProcessPoolBuilder, ProcessPoolExecutor, Queue, Result,
    StartMethod, fork_map, max_depth, one_way, set_max_depth,
};
use serde::{Deserialize, Serialize};

/// Links of a chain that overflow a stack of 2 MiB.
const TOO_MANY: usize = 10_000;

/// Two levels: the struct and its option.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Link {
    next: Option<Box<Link>>,
}

fn chain(links: usize) -> Link {
    (1..links).fold(Link { next: None }, |it, _| Link {
        next: Some(Box::new(it)),
    })
}

/// A task: counts the links.
fn length(chain: Link) -> usize {
    std::iter::successors(Some(&chain), |it| it.next.as_deref()).count()
}

/// Two levels, which take up more of a stack than most in a debug build.
#[derive(Serialize, Deserialize)]
struct Fields {
    numbers: [[u64; 16]; 4],
    texts: (String, Option<String>, Vec<String>),
    next: Option<Box<Fields>>,
}

#[track_caller]
fn assert_too_deep<T>(outcome: Result<T>) {
    let error = failure(outcome);
    assert_eq!(error.kind(), ErrorKind::Codec, "{error}");
    assert!(error.to_string().contains("levels deep"), "{error}");
}

fn builder(method: StartMethod) -> ProcessPoolBuilder {
    ProcessPoolExecutor::builder()
        .workers(1)
        .start_method(method)
}

// Tasks.

#[test]
fn a_result_that_is_too_deep_fails_its_task_alone() -> Result<()> {
    for_every_method!(|method| {
        let pool = builder(method).build()?;
        assert_too_deep(pool.apply(chain, TOO_MANY));
        let mut results = pool.map_results(chain, [1, TOO_MANY, 2]).into_iter();
        assert_eq!(results.next().transpose()?, Some(chain(1)));
        assert_too_deep(results.next().expect("a result"));
        assert_eq!(results.next().transpose()?, Some(chain(2)));
        Ok(())
    })
}

#[test]
fn an_argument_that_is_too_deep_fails_its_task_alone() -> Result<()> {
    for_every_method!(|method| {
        let pool = builder(method).build()?;
        assert_too_deep(pool.apply(length, chain(TOO_MANY)));
        assert_too_deep(pool.map(length, [chain(1), chain(TOO_MANY)]));
        assert_eq!(pool.apply(length, chain(3))?, 3);
        Ok(())
    })
}

#[test]
fn a_result_deeper_than_its_reader_allows_is_an_error() -> Result<()> {
    for_every_method!(|method| {
        let pool = builder(method).build()?;
        let deep = |()| {
            set_max_depth(2000);
            chain(900)
        };
        assert_too_deep(pool.apply(deep, ()));
        assert_eq!(pool.apply(length, chain(3))?, 3);
        Ok(())
    })
}

#[test]
fn an_argument_deeper_than_the_worker_allows_is_an_error() {
    alone("", || {
        let pool = builder(StartMethod::ForkServer).build().expect("a pool");
        pool.apply(|()| (), ()).expect("a worker");
        set_max_depth(2000);
        assert_too_deep(pool.apply(length, chain(900)));
        assert_eq!(pool.apply(length, chain(3)).expect("a length"), 3);
    });
}

#[test]
fn a_context_that_is_too_deep_is_an_error() -> Result<()> {
    for_every_method!(|method| {
        let pool = builder(method).build()?;
        let links = |context: &Link, _: u8| length(context.clone());
        assert_too_deep(pool.map_with(chain(TOO_MANY), links, [1, 2]));
        assert_eq!(pool.map_with(chain(3), links, [1])?, [3]);
        Ok(())
    })
}

#[test]
fn an_initializer_whose_argument_is_too_deep_is_an_error() -> Result<()> {
    for_every_method!(|method| {
        let built = builder(method)
            .initializer(|_: Link| Ok::<(), String>(()), chain(TOO_MANY))
            .build();
        assert_too_deep(built);
        Ok(())
    })
}

// Processes.

#[test]
fn a_process_whose_argument_or_result_is_too_deep_is_an_error() -> Result<()> {
    for_every_method!(|method| {
        assert_too_deep(start(method, length, chain(TOO_MANY)));
        assert_too_deep(start(method, chain, TOO_MANY)?.result());
        Ok(())
    })
}

#[test]
fn a_result_of_fork_map_that_is_too_deep_is_an_error() -> Result<()> {
    in_time(|| {
        let in_a_copy = |()| {
            let kind = fork_map(1, &[TOO_MANY], |links| chain(*links)).map_err(|it| it.kind());
            kind.is_err_and(|it| it == ErrorKind::Codec)
        };
        assert!(Process::start(in_a_copy, ())?.result()?);
        Ok(())
    })
}

// Messages, queues, managers.

#[test]
fn a_message_that_is_too_deep_is_not_sent() -> Result<()> {
    in_time(|| {
        let (receiver, sender) = one_way()?;
        assert_too_deep(sender.send(&chain(TOO_MANY)));
        sender.send(&chain(3))?;
        assert_eq!(length(receiver.recv()?), 3);
        Ok(())
    })
}

#[test]
fn a_message_deeper_than_its_receiver_allows_is_an_error() -> Result<()> {
    for_every_method!(|method| {
        let (receiver, sender) = one_way()?;
        let send = |sender: procpool::Sender<Link>| {
            set_max_depth(2000);
            sender.send(&chain(900)).is_ok() && sender.send(&chain(3)).is_ok()
        };
        let process = start(method, send, sender)?;
        assert_too_deep(receiver.recv());
        assert_eq!(length(receiver.recv()?), 3);
        assert!(process.result()?);
        Ok(())
    })
}

#[test]
fn an_item_that_is_too_deep_is_not_put_into_a_queue() -> Result<()> {
    in_time(|| {
        let queue = Queue::bounded(2)?;
        assert_too_deep(queue.put(&chain(TOO_MANY)));
        queue.put(&chain(3))?;
        assert_eq!(length(queue.get_timeout(DEADLINE)?), 3);
        Ok(())
    })
}

#[test]
fn an_item_deeper_than_its_taker_allows_is_an_error() -> Result<()> {
    for_every_method!(|method| {
        let queue = Queue::bounded(2)?;
        let put = |queue: Queue<Link>| {
            set_max_depth(2000);
            queue.put(&chain(900)).is_ok() && queue.put(&chain(3)).is_ok()
        };
        let process = start(method, put, queue.clone())?;
        assert_too_deep(queue.get_timeout(DEADLINE));
        assert_eq!(length(queue.get_timeout(DEADLINE)?), 3);
        assert!(process.result()?);
        Ok(())
    })
}

#[test]
fn what_a_manager_is_sent_too_deep_is_an_error() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let (list, dict) = (manager.list::<Link>()?, manager.dict::<u8, Link>()?);
        assert_too_deep(list.push(chain(TOO_MANY)));
        assert_too_deep(dict.insert(1, chain(TOO_MANY)));
        list.push(chain(3))?;
        assert_eq!(list.get(0)?.map(length), Some(3));
        Ok(())
    })
}

#[test]
fn what_a_manager_answers_too_deep_is_an_error() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let object = manager.object(0_u8)?;
        assert_too_deep(object.call(|_, links: usize| chain(links), TOO_MANY));
        let links = object.call(|_, links: usize| chain(links), 3)?;
        assert_eq!(length(links), 3);
        Ok(())
    })
}

// The limit.

#[test]
fn a_value_as_deep_as_the_limit_fits_on_the_stack_of_a_thread() -> Result<()> {
    for_every_method!(|method| {
        let fields = (0..max_depth() / 2).fold(None, |next, _| {
            let (numbers, texts) = Default::default();
            Some(Box::new(Fields {
                numbers,
                texts,
                next,
            }))
        });
        let pool = builder(method).build()?;
        // The option is one level, and the innermost fields are three levels deeper.
        let fields = fields
            .and_then(|it: Box<Fields>| it.next)
            .and_then(|it| it.next);
        let back = pool.apply(|it: Option<Box<Fields>>| it, fields)?;
        assert!(back.is_some());
        Ok(())
    })
}

#[test]
fn many_values_side_by_side_are_not_deep() -> Result<()> {
    in_time(|| {
        let pool = builder(StartMethod::ForkServer).build()?;
        let flat = vec![Some((1_u8, [Some("text".to_owned()), None])); 10_000];
        assert_eq!(pool.apply(|it: Vec<_>| it, flat.clone())?, flat);
        Ok(())
    })
}

#[test]
fn a_limit_that_is_set_holds_in_children_too() {
    alone("", || {
        set_max_depth(1000);
        let test: fn(StartMethod) -> Result<()> = |method| {
            assert_eq!(start(method, |()| max_depth(), ())?.result()?, 1000);
            let pool = builder(method).build()?;
            assert_eq!(pool.apply(|it: Link| it, chain(400))?, chain(400));
            assert_too_deep(pool.apply(length, chain(501)));
            Ok(())
        };
        test(StartMethod::ForkServer).expect("an echo");
        test(StartMethod::Spawn).expect("an echo");
    });
}

#[test]
fn a_limit_of_nothing_leaves_room_for_the_crates_own_messages() {
    alone("", || {
        set_max_depth(0);
        let pool = ProcessPoolExecutor::builder().workers(1).build();
        let sum = pool.and_then(|it| it.map(|(a, b): (u64, u64)| a + b, [(1, 2)]));
        assert_eq!(sum.map_err(|it: Error| it.to_string()), Ok(vec![3]));
        let list = Manager::start().and_then(|it| it.list::<u8>()?.push(1));
        assert!(list.is_ok(), "{list:?}");
    });
}
