//! Handles that are received as another kind than they were sent as: refused on every way.

use common::for_every_method;
use common::methods::start;
use common::{failure, in_time};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use procpool::{
    Address, Array, Connection, Descriptor, Error, ErrorKind, Event, JoinableQueue, Listener, Lock,
    Manager, ProcessPoolExecutor, Queue, RLock, Receiver, Result, Sender, SharedMemory, Value,
    connect, one_way, pipe,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fs::File, io::Write, thread};

/// Goes away as one value, and is taken for another.
enum Disguised<S, R> {
    Sent(S),
    Received(R),
}

impl<S: Serialize, R> Serialize for Disguised<S, R> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> std::result::Result<Z::Ok, Z::Error> {
        match self {
            Self::Sent(it) => it.serialize(serializer),
            Self::Received(_) => unreachable!("it only arrives"),
        }
    }
}

impl<'de, S, R: Deserialize<'de>> Deserialize<'de> for Disguised<S, R> {
    fn deserialize<Z: Deserializer<'de>>(deserializer: Z) -> std::result::Result<Self, Z::Error> {
        R::deserialize(deserializer).map(Self::Received)
    }
}

/// An array, whose file the receiver would have.
type AsDescriptor = Disguised<Array<u64>, Descriptor>;

fn array(_: ()) -> AsDescriptor {
    Disguised::Sent(Array::new(4).expect("an array"))
}

fn takes_a_descriptor(_: AsDescriptor) {}

fn is_refused(error: &Error, sent: &str, received: &str) {
    assert_eq!(error.kind(), ErrorKind::Codec, "{error}");
    let sentence = format!("was sent as {sent} and cannot be received as {received}");
    assert!(error.to_string().contains(&sentence), "{error}");
}

/// Sends one value, and has it received as another.
fn exchanged<S: Serialize, R: for<'a> Deserialize<'a>>(sent: S) -> Result<Error> {
    let (receiver, sender) = one_way::<Disguised<S, R>>()?;
    sender.send(&Disguised::Sent(sent))?;
    let by_one_way = failure(receiver.recv().map(drop));
    Ok(by_one_way)
}

#[test]
fn no_handle_is_received_as_a_descriptor() -> Result<()> {
    in_time(|| {
        let (receiver, sender) = one_way::<u8>()?;
        let (end, _other) = pipe::<u8, u8>()?;
        let errors = [
            (exchanged::<_, Descriptor>(Array::<u64>::new(1)?)?, "Array"),
            (exchanged::<_, Descriptor>(Value::new(1u64)?)?, "Value"),
            (exchanged::<_, Descriptor>(Lock::new()?)?, "Lock"),
            (exchanged::<_, Descriptor>(RLock::new()?)?, "RLock"),
            (exchanged::<_, Descriptor>(Event::new()?)?, "Event"),
            (
                exchanged::<_, Descriptor>(Queue::<u8>::bounded(1)?)?,
                "Queue",
            ),
            (
                exchanged::<_, Descriptor>(JoinableQueue::<u8>::bounded(1)?)?,
                "JoinableQueue",
            ),
            (
                exchanged::<_, Descriptor>(SharedMemory::create(1)?)?,
                "SharedMemory",
            ),
            (exchanged::<_, Descriptor>(receiver)?, "Receiver"),
            (exchanged::<_, Descriptor>(sender)?, "Sender"),
        ];
        for (error, sent) in errors {
            is_refused(&error, sent, "Descriptor");
        }
        // The first number in its bytes says how it is made.
        let error = exchanged::<_, (u32, Descriptor)>(end)?;
        is_refused(&error, "Connection", "Descriptor");
        Ok(())
    })
}

#[test]
fn handles_are_not_received_as_handles_of_another_kind() -> Result<()> {
    in_time(|| {
        let (receiver, sender) = one_way::<u8>()?;
        is_refused(&exchanged::<_, Sender<u8>>(receiver)?, "Receiver", "Sender");
        is_refused(&exchanged::<_, Receiver<u8>>(sender)?, "Sender", "Receiver");
        is_refused(&exchanged::<_, Lock>(RLock::new()?)?, "RLock", "Lock");
        is_refused(
            &exchanged::<_, Lock>(Array::<u8>::new(64)?)?,
            "Array",
            "Lock",
        );
        Ok(())
    })
}

/// Shared memory with the header of a lock, which its maker can write to.
fn forged() -> File {
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
    let mut file = File::from(memfd_create("forged", flags).expect("a file"));
    let header = [u64::from_le_bytes(*b"procpool"), 1, 0, 128, 7];
    let header = header.map(u64::to_le_bytes).concat();
    file.write_all(&header).expect("a file");
    file.write_all(&[0; 4096]).expect("a file");
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).expect("a file");
    file
}

#[test]
fn a_descriptor_is_not_received_as_shared_memory() -> Result<()> {
    in_time(|| {
        let error = exchanged::<_, Array<u64>>(Descriptor::from(forged()))?;
        is_refused(&error, "Descriptor", "Array");
        let error = exchanged::<_, Lock>(Descriptor::from(forged()))?;
        is_refused(&error, "Descriptor", "Lock");
        Ok(())
    })
}

#[test]
fn the_bytes_of_a_message_do_not_say_what_its_handles_are() -> Result<()> {
    in_time(|| {
        let file = || Descriptor::from(forged());
        // Each names the place of the other.
        let error = exchanged::<_, (Descriptor, Array<u64>)>((Array::<u64>::new(1)?, file()))?;
        is_refused(&error, "Array", "Descriptor");
        // The place is in a number of the sender's.
        let error = exchanged::<_, (u32, Descriptor)>((Array::<u64>::new(1)?, 0u32))?;
        is_refused(&error, "Array", "Descriptor");
        Ok(())
    })
}

#[test]
fn ends_of_two_types_do_not_exchange_handles() -> Result<()> {
    in_time(|| {
        let (ours, theirs) = pipe::<AsDescriptor, ()>()?;
        ours.send(&array(()))?;
        is_refused(&failure(theirs.recv().map(drop)), "Array", "Descriptor");

        let folder = tempfile::tempdir().expect("a directory");
        let listener = Listener::bind(Address::Unix(folder.path().join("socket")), None)?;
        let address = listener.address().clone();
        let client = thread::spawn(move || -> Result<()> {
            let client: Connection<Array<u64>, ()> = connect(address, None)?;
            client.send(&Array::new(4)?)
        });
        let server: Connection<(), Descriptor> = listener.accept()?;
        is_refused(&failure(server.recv().map(drop)), "Array", "Descriptor");
        client.join().expect("no panic")
    })
}

for_every_method! {
    fn a_process_does_not_take_a_handle_for_another(method) {
        let process = start(method, takes_a_descriptor, array(()))?;
        is_refused(&failure(process.result()), "Array", "Descriptor");
        let process = start(method, array, ())?;
        is_refused(&failure(process.result().map(drop)), "Array", "Descriptor");
        Ok(())
    }

    fn a_task_does_not_take_a_handle_for_another(method) {
        let build = || ProcessPoolExecutor::builder().workers(1).start_method(method);
        let pool = build().build()?;
        let errors = [
            failure(pool.apply(takes_a_descriptor, array(()))),
            failure(pool.apply(array, ()).map(drop)),
            failure(pool.map_with(array(()), |_, ()| (), [()]).map(drop)),
        ];
        for error in errors {
            is_refused(&error, "Array", "Descriptor");
        }
        let initializer: fn(AsDescriptor) -> std::result::Result<(), String> = |_| Ok(());
        let pool = build().initializer(initializer, array(())).build()?;
        let error = failure(pool.apply(|()| (), ())).to_string();
        assert!(error.contains("was sent as Array"), "{error}");
        Ok(())
    }
}

#[test]
fn a_manager_does_not_take_a_handle_for_another() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let list = manager.list::<AsDescriptor>()?;
        is_refused(&failure(list.push(array(()))), "Array", "Descriptor");
        Ok(())
    })
}
