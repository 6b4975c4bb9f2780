//! Destructors of the user's in the server, which panic or take their time: their own objects'
//! business.

use common::processes::eventually;
use common::{Gate, failure, in_time, pass};
use procpool::{Address, ErrorKind, Manager, Process, Proxy, Result, authkey};
use serde::{Deserialize, Serialize, Serializer};
use std::{
    fs::{self, File},
    mem,
    path::{Path, PathBuf},
    process, thread,
};

/// Leaves a file when it is dropped in another process than its maker's: in the server.
#[derive(Serialize, Deserialize)]
struct Trace {
    maker: u32,
    file: PathBuf,
}

impl Trace {
    fn new(folder: &Path, number: usize) -> Self {
        Self {
            maker: process::id(),
            file: folder.join(number.to_string()),
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if self.maker != process::id() {
            File::create(&self.file).expect("its folder is there");
        }
    }
}

fn traces(folder: &Path) -> usize {
    fs::read_dir(folder).expect("a folder").count()
}

/// Panics when it is dropped in the server.
#[derive(Serialize, Deserialize)]
struct Grenade {
    maker: u32,
}

impl Grenade {
    fn new() -> Self {
        Self {
            maker: process::id(),
        }
    }
}

impl Drop for Grenade {
    fn drop(&mut self) {
        assert_eq!(self.maker, process::id(), "on purpose");
    }
}

/// A client that makes objects, and dies with them.
fn die_with_objects((address, folder): (Address, PathBuf)) {
    let manager = Manager::connect(address, authkey()).expect("a server");
    for number in 0..20 {
        let trace = manager.object(Trace::new(&folder, number));
        mem::forget(trace.expect("a server"));
        let grenade = manager.object(Grenade::new());
        mem::forget(grenade.expect("a server"));
    }
}

#[test]
fn destructors_that_panic_end_neither_the_server_nor_keep_other_objects() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        for _ in 0..20 {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().to_owned();
            Process::start(die_with_objects, (manager.address().clone(), path))?.result()?;
            eventually("the others are dropped", || traces(folder.path()) == 20);
        }
        drop(manager.object(Grenade::new())?);
        manager.value(7)?.get().map(|it| assert_eq!(it, 7))
    })
}

/// Waits at a gate when it is dropped in the server.
#[derive(Serialize, Deserialize)]
struct Slow {
    maker: u32,
    gate: PathBuf,
}

impl Drop for Slow {
    fn drop(&mut self) {
        if self.maker != process::id() {
            pass(self.gate.clone());
        }
    }
}

#[test]
fn a_destructor_that_takes_its_time_holds_up_nobody() -> Result<()> {
    in_time(|| {
        let (manager, gate) = (Manager::start()?, Gate::new());
        let slow = Slow {
            maker: process::id(),
            gate: gate.path(),
        };
        drop(manager.object(slow)?);
        gate.wait_for(1);
        // References come and go, here and in other threads, while it is at it.
        let list = manager.list::<u8>()?;
        thread::scope(|scope| {
            let other = scope.spawn(|| manager.list::<u8>().map(drop));
            other.join().expect("no panic")
        })?;
        drop(list.clone());
        list.push(1)?;
        drop(list);
        gate.open();
        Ok(())
    })
}

/// Cannot leave the server.
#[derive(Deserialize)]
struct Stays {
    maker: u32,
}

impl Serialize for Stays {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        if self.maker != process::id() {
            return Err(serde::ser::Error::custom("it stays"));
        }
        self.maker.serialize(to)
    }
}

#[test]
fn what_stands_in_a_reply_that_is_never_sent_is_dropped() -> Result<()> {
    in_time(|| {
        let (manager, folder) = (Manager::start()?, tempfile::tempdir().expect("a folder"));
        let shelf = manager.list::<(Proxy<Trace>, Vec<Stays>)>()?;
        for number in 0..5 {
            let trace = manager.object(Trace::new(folder.path(), number))?;
            let last = Stays {
                maker: process::id(),
            };
            shelf.push((trace, vec![last]))?;
        }
        assert_eq!(failure(shelf.to_vec()).kind(), ErrorKind::Codec);
        shelf.clear()?;
        eventually("all are dropped", || traces(folder.path()) == 5);
        Ok(())
    })
}
