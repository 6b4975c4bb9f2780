//! Shared memory: bytes in and out, names, and what goes when.

#![expect(unsafe_code, reason = "shared memory that is used in place")]

use common::methods::start;
use common::processes::{Program, eventually, listen, say};
use common::{failure, for_every_method, in_time, pattern};
use nix::sys::resource::{Resource, setrlimit};
use procpool::{Array, ErrorKind, Lock, Process, Queue, Result, SharedMemory};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    process,
};

const PROGRAMS: &[(&str, fn())] = &[
    ("make a name and end", || make(true)),
    ("make a name and be killed", || make(false)),
];

#[test]
#[ignore = "a program that other tests start"]
fn program() {
    common::processes::run(PROGRAMS);
}

/// A name that no other test has.
fn name(of: &str) -> String {
    format!("test.{}.{of}", process::id())
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm/procpool.{name}"))
}

fn kind<T>(outcome: Result<T>) -> ErrorKind {
    failure(outcome).kind()
}

#[test]
fn what_one_process_writes_another_reads() -> Result<()> {
    for_every_method!(|method| {
        let memory = SharedMemory::create(1_000_000)?;
        let write = |it: SharedMemory| it.write_at(7, &pattern(500_000, 3)).is_ok();
        assert!(start(method, write, memory.clone())?.result()?);
        let mut read = vec![0; 500_000];
        memory.read_at(7, &mut read)?;
        assert_eq!(read, pattern(500_000, 3));
        Ok(())
    })
}

#[test]
fn its_length_is_what_was_asked_for() -> Result<()> {
    in_time(|| {
        for bytes in [1, 4095, 4096, 4097] {
            let memory = SharedMemory::create(bytes)?;
            assert_eq!((memory.len(), memory.name()), (bytes, None));
            memory.write_at(bytes - 1, b"x")?;
            memory.write_at(bytes, b"")?;
            memory.read_at(0, &mut vec![0; bytes])?;
            for (offset, length) in [(bytes, 1), (0, bytes + 1), (usize::MAX, 2)] {
                let refused = memory.read_at(offset, &mut vec![0; length]);
                assert_eq!(kind(refused), ErrorKind::InvalidInput);
                let refused = memory.write_at(offset, &vec![0; length]);
                assert_eq!(kind(refused), ErrorKind::InvalidInput);
            }
        }
        Ok(())
    })
}

/// A mapping of a file begins at a page, which has 4, 16 or 64 KiB on ARM.
#[test]
fn its_bytes_can_be_used_in_place() -> Result<()> {
    in_time(|| {
        let memory = SharedMemory::create(10_000)?;
        memory.write_at(9_999, b"x")?;
        // SAFETY: the address is used as long as there is a handle.
        let start = unsafe { memory.as_ptr() };
        assert!(!start.is_null() && start.addr().is_multiple_of(4096));
        let last = start.wrapping_add(9_999);
        // SAFETY: the last byte of the memory, which no process changes any more.
        assert_eq!(unsafe { last.read() }, b'x');
        Ok(())
    })
}

#[test]
fn what_cannot_be_is_refused() -> Result<()> {
    in_time(|| {
        for bytes in [0, usize::MAX, i64::MAX as usize] {
            assert_eq!(kind(SharedMemory::create(bytes)), ErrorKind::InvalidInput);
            let named = SharedMemory::create_named(&name("size"), bytes);
            assert_eq!(kind(named), ErrorKind::InvalidInput);
        }
        for name in ["", "a/b", "../x", "a\0b", &"x".repeat(247)] {
            let named = SharedMemory::create_named(name, 1);
            assert_eq!(kind(named), ErrorKind::InvalidInput);
            assert_eq!(kind(SharedMemory::open(name)), ErrorKind::InvalidInput);
        }
        assert_eq!(
            kind(SharedMemory::create(1)?.unlink()),
            ErrorKind::InvalidInput
        );
        assert_eq!(kind(SharedMemory::open(&name("missing"))), ErrorKind::Io);
        Ok(())
    })
}

/// SIGXFSZ would end the process.
#[test]
fn what_is_beyond_the_limit_of_file_sizes_is_an_error() -> Result<()> {
    in_time(|| {
        let beyond = |memory: SharedMemory| {
            setrlimit(Resource::RLIMIT_FSIZE, 20_000, 20_000).expect("a lower limit");
            let made = [
                SharedMemory::create(30_000).map(drop),
                SharedMemory::create_named(&name("limit"), 30_000).map(drop),
                Array::<u8>::new(30_000).map(drop),
                Queue::<u8>::unbounded().map(drop),
                memory.write_at(10_000, &[0; 20_000]),
            ];
            let within = memory
                .write_at(10_000, b"x")
                .and_then(|()| Lock::new().map(drop));
            made.map(|it| kind(it) == ErrorKind::Io) == [true; 5] && within.is_ok()
        };
        let memory = SharedMemory::create(100_000)?;
        assert!(Process::start(beyond, memory)?.result()?);
        Ok(())
    })
}

#[test]
fn a_name_is_there_once_and_until_it_is_unlinked() -> Result<()> {
    in_time(|| {
        let name = name("once");
        let memory = SharedMemory::create_named(&name, 100)?;
        assert_eq!(memory.name(), Some(name.as_str()));
        assert_eq!(kind(SharedMemory::create_named(&name, 100)), ErrorKind::Io);
        let opened = SharedMemory::open(&name)?;
        opened.write_at(0, b"both")?;
        memory.unlink()?;
        assert!(!file(&name).exists());
        assert_eq!(kind(memory.unlink()), ErrorKind::Io);
        let mut read = [0; 4];
        memory.read_at(0, &mut read)?;
        assert_eq!(&read, b"both");
        // Another's, which the first must leave alone.
        let other = SharedMemory::create_named(&name, 1)?;
        assert_eq!(kind(memory.unlink()), ErrorKind::Io);
        drop((memory, opened));
        assert!(file(&name).exists());
        drop(other);
        assert!(!file(&name).exists());
        Ok(())
    })
}

#[test]
fn a_name_goes_with_the_last_handle_of_its_maker_and_no_other() -> Result<()> {
    in_time(|| {
        let name = name("last");
        let memory = SharedMemory::create_named(&name, 100)?;
        let open = |name: String| SharedMemory::open(&name).map(drop).is_ok();
        assert!(Process::start(open, name.clone())?.result()?);
        // One that has come back is a handle to the same.
        let back = Process::start(|it: SharedMemory| it, memory.clone())?.result()?;
        drop(memory);
        assert!(file(&name).exists());
        drop(back);
        assert!(!file(&name).exists());
        Ok(())
    })
}

#[test]
fn a_name_that_a_child_made_goes_with_the_child() -> Result<()> {
    for_every_method!(|method| {
        let name = name(&format!("child.{method:?}"));
        let make = |name: String| {
            std::mem::forget(SharedMemory::create_named(&name, 1));
            file(&name).exists()
        };
        let child = start(method, make, name.clone())?;
        assert!(child.join()?.success());
        assert!(child.result()?);
        assert!(!file(&name).exists());
        Ok(())
    })
}

fn make(ends: bool) {
    let name = name("program");
    std::mem::forget(SharedMemory::create_named(&name, 1).expect("shared memory"));
    say(&name);
    listen();
    assert!(ends);
}

#[test]
fn a_name_goes_when_its_maker_ends_and_stays_when_that_is_killed() {
    in_time(|| {
        let mut program = Program::start("make a name and end");
        let name = program.hear();
        assert!(SharedMemory::open(&name).is_ok() && file(&name).exists());
        drop(program.succeed());
        assert!(!file(&name).exists());

        let mut program = Program::start("make a name and be killed");
        let name = program.hear();
        program.kill();
        drop(program.finish());
        eventually("it is there", || file(&name).exists());
        let left = SharedMemory::open(&name).expect("what was left");
        left.unlink().expect("a name");
    });
}

#[test]
fn another_file_is_not_opened() -> Result<()> {
    in_time(|| {
        let name = name("foreign");
        fs::write(file(&name), vec![7; 8192]).expect("a file");
        let refused = kind(SharedMemory::open(&name));
        fs::remove_file(file(&name)).expect("the file");
        assert_eq!(refused, ErrorKind::InvalidInput);
        Ok(())
    })
}

#[test]
fn the_memory_of_another_user_is_not_opened() -> Result<()> {
    in_time(|| {
        let name = name("given away");
        let memory = SharedMemory::create_named(&name, 1)?;
        fs::set_permissions(file(&name), fs::Permissions::from_mode(0o666)).expect("the file");
        // Only root may give a file away; anybody else has no other user's.
        let nobody = 65534;
        let is_root = chown(file(&name), Some(nobody), None).is_ok();
        let opened = SharedMemory::open(&name).map(drop);
        assert_eq!(
            opened.map_err(|it| it.kind()).err(),
            is_root.then_some(ErrorKind::Io)
        );
        drop(memory);
        Ok(())
    })
}

#[test]
fn a_file_that_was_cut_off_is_an_error() -> Result<()> {
    in_time(|| {
        let name = name("cut");
        let memory = SharedMemory::create_named(&name, 100_000)?;
        let cut = fs::File::options().write(true).open(file(&name));
        cut.and_then(|it| it.set_len(5000)).expect("the file");
        let read = memory.read_at(50_000, &mut [0; 10]);
        assert_eq!(kind(read), ErrorKind::Io);
        Ok(())
    })
}
