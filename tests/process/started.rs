//! Started: arguments, results, names, environments.

use common::for_every_method;
use common::methods::start;
use common::{failure, in_time, pattern, square};
use procpool::{ErrorKind, Process, Result, active_children, current_process, parent_process};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, env, process};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Crawler {
    url: String,
    depth: u32,
}

impl Crawler {
    fn step(mut self) -> Self {
        self.depth += 1;
        self
    }
}

for_every_method! {
    fn a_result_arrives(method) {
        assert_eq!(start(method, square, 7)?.result()?, 49);
        Ok(())
    }

    fn it_runs_in_another_process(method) {
        let process = start(method, |()| process::id(), ())?;
        let pid = process.pid();
        assert_ne!(pid, process::id());
        assert_eq!(process.result()?, pid);
        Ok(())
    }

    fn a_method_of_a_struct_is_a_process_class(method) {
        let crawler = Crawler { url: "a".to_owned(), depth: 1 };
        assert_eq!(start(method, Crawler::step, crawler)?.result()?.depth, 2);
        Ok(())
    }

    fn values_of_every_size_go_there_and_back(method) {
        for length in [0, 1, 4095, 65_535, 65_536, 65_537, 5_000_000] {
            let bytes = pattern(length, 3);
            assert!(start(method, |it: Vec<u8>| it, bytes.clone())?.result()? == bytes, "{length}");
            let numbers: Vec<u32> = (0..length as u32 / 4).collect();
            let back = start(method, |it: Vec<u32>| it, numbers.clone())?.result()?;
            assert!(back == numbers, "{length}");
        }
        Ok(())
    }

    fn a_result_waits_and_its_process_does_not(method) {
        let process = start(method, |()| vec![7u64; 1_000_000], ())?;
        assert!(process.join()?.success());
        assert_eq!(process.result()?.len(), 1_000_000);
        Ok(())
    }

    fn a_child_knows_its_name_its_id_and_its_parent(method) {
        let who = |()| {
            let (own, parent) = (current_process(), parent_process());
            let parent = parent.map(|it| (it.name().to_owned(), it.pid()));
            (own.name().to_owned(), own.pid(), parent)
        };
        let process = Process::builder(who, ()).name("bob").start_method(method).start()?;
        let (pid, own) = (process.pid(), current_process());
        let parent = Some((own.name().to_owned(), own.pid()));
        assert_eq!(process.name(), "bob");
        assert_eq!(process.result()?, ("bob".to_owned(), pid, parent));
        Ok(())
    }

    fn a_nested_process_is_named_after_its_parent(method) {
        let nested = |method| {
            let inner = start(method, |()| current_process().name().to_owned(), ());
            let name = inner.and_then(Process::result).unwrap_or_else(|it| it.to_string());
            (current_process().name().to_owned(), name)
        };
        let (outer, inner) = start(method, nested, method)?.result()?;
        assert_eq!(inner, format!("{outer}:1"));
        Ok(())
    }

    fn variables_are_those_of_the_parent_and_those_that_were_set(method) {
        let lookup = |()| (env::var("PATH").ok(), env::var("PROCPOOL_TEST_A").ok());
        let process = Process::builder(lookup, ()).start_method(method);
        let found = process.env("PROCPOOL_TEST_A", "b").start()?.result()?;
        assert_eq!(found, (env::var("PATH").ok(), Some("b".to_owned())));
        assert!(env::var_os("PROCPOOL_TEST_A").is_none());
        Ok(())
    }

    fn the_directory_is_the_parents(method) {
        let there = start(method, |()| env::current_dir().ok(), ())?.result()?;
        assert_eq!(there, env::current_dir().ok());
        Ok(())
    }

    fn the_key_of_the_family_is_the_parents(method) {
        let (receiver, sender) = procpool::one_way::<bool>()?;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (path, key) = (directory.path().join("socket"), procpool::authkey());
        let listener = procpool::Listener::bind(path, Some(key))?;
        let greet = |(address, sender): (procpool::Address, procpool::Sender<bool>)| {
            let connection = procpool::connect::<u8, u8>(address, Some(procpool::authkey()));
            drop(sender.send(&connection.is_ok_and(|it| it.send(&7).is_ok())));
        };
        let process = start(method, greet, (listener.address().clone(), sender))?;
        assert_eq!(listener.accept::<u8, u8>()?.recv()?, 7);
        assert!(receiver.recv()?);
        process.result()
    }

    fn a_map_arrives(method) {
        let map = HashMap::from([("a".to_owned(), 1u64), ("b".to_owned(), 2)]);
        assert_eq!(start(method, |it: HashMap<String, u64>| it, map.clone())?.result()?, map);
        Ok(())
    }

    fn a_running_process_is_among_the_active_children(method) {
        let process = start(method, |()| -> () { loop { std::thread::park() } }, ())?;
        let is_listed = |pid| active_children().iter().any(|it| it.pid() == pid);
        assert!(is_listed(process.pid()));
        process.kill()?;
        process.join()?;
        assert!(!is_listed(process.pid()));
        Ok(())
    }

    fn many_processes_run_at_once(method) {
        let all: Result<Vec<_>> = (0..30).map(|x| start(method, square, x)).collect();
        for (x, process) in (0..).zip(all?) {
            assert_eq!(process.result()?, x * x);
        }
        Ok(())
    }
}

#[test]
fn processes_are_numbered() -> Result<()> {
    in_time(|| {
        let [a, b] = [(); 2].map(|()| Process::start(square, 7));
        let (a, b) = (a?, b?);
        for process in [&a, &b] {
            let number = process.name().strip_prefix("Process-");
            assert!(
                number.is_some_and(|it| it.parse::<u32>().is_ok()),
                "{process:?}"
            );
        }
        assert_ne!(a.name(), b.name());
        Ok(())
    })
}

#[test]
fn a_name_that_cannot_be_a_variable_is_refused() {
    for (key, value) in [("", "a"), ("a=b", "c"), ("a\0", "b"), ("a", "b\0")] {
        let refused = Process::builder(square, 7).env(key, value).start();
        assert_eq!(failure(refused).kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn an_argument_that_cannot_be_encoded_is_an_error_at_the_start() {
    struct Stubborn;
    impl Serialize for Stubborn {
        fn serialize<S: serde::Serializer>(&self, _to: S) -> std::result::Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("it does not want to"))
        }
    }
    impl<'de> Deserialize<'de> for Stubborn {
        fn deserialize<D: serde::Deserializer<'de>>(
            from: D,
        ) -> std::result::Result<Self, D::Error> {
            <()>::deserialize(from).map(|()| Self)
        }
    }
    let error = failure(Process::start(|_: Stubborn| (), Stubborn));
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert!(error.to_string().contains("it does not want to"), "{error}");
    let process = Process::start(|()| Stubborn, ());
    let error = in_time(|| failure(process.and_then(Process::result)));
    assert_eq!(error.kind(), ErrorKind::Codec);
}
