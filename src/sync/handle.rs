//! Code that all handles share: they are cloned, printed, and sent as the object that they refer
//! to.

use crate::shm::{Object, ObjectKind};

/// A handle to an [`Object`], with state of this process.
pub(super) trait Handle: Sized {
    const KIND: ObjectKind;

    /// Returns the fingerprint of the type that the object holds.
    fn fingerprint() -> u64 {
        0
    }

    /// Returns the minimum length of an object of this kind in bytes.
    fn least() -> usize;

    fn object(&self) -> &Object;

    /// Returns a handle to an object of this kind and type.
    fn of(object: Object) -> Self;
}

/// Implements the traits of a handle for a [`Handle`] type.
macro_rules! handle {
    ($name:ident $(<$item:ident>)?) => {
        /// Returns another handle to the same object.
        impl$(<$item>)? Clone for $name$(<$item>)? {
            fn clone(&self) -> Self {
                Self::of(self.object().clone())
            }
        }

        impl$(<$item>)? serde::Serialize for $name$(<$item>)? {
            fn serialize<Z: serde::Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
                self.object().serialize(Self::KIND, serializer)
            }
        }

        impl<'de $(, $item)?> serde::Deserialize<'de> for $name$(<$item>)? {
            fn deserialize<Z: serde::Deserializer<'de>>(deserializer: Z) -> Result<Self, Z::Error> {
                let (fingerprint, least) = (Self::fingerprint(), Self::least());
                crate::shm::Object::deserialize(deserializer, Self::KIND, fingerprint, least)
                    .map(Self::of)
            }
        }

        impl$(<$item>)? std::fmt::Debug for $name$(<$item>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("fd", self.object()).finish_non_exhaustive()
            }
        }
    };
}
pub(super) use handle;

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::error::Result;
    use crate::shm::{Cursor, Object, ObjectKind, View, fingerprint};
    use crate::sync::{
        Array, Atomic, Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore, Value,
    };
    use crate::wire::{Wire, codec, handle};
    use serde::{Serialize, Serializer};
    use std::{sync::atomic::Ordering, time::Duration};

    const SOON: Duration = Duration::from_millis(1);

    /// An object that is sent as a handle of this kind.
    struct Sent<'a>(&'a Object, ObjectKind);

    impl Serialize for Sent<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
            self.0.serialize(self.1, serializer)
        }
    }

    /// Decodes an object as a peer would.
    fn decoded<T: Wire>(object: &Object, kind: ObjectKind) -> Result<T, String> {
        let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
        let sent = Sent(object, kind);
        handle::collect(&mut descriptors, || codec::encode(&sent, &mut bytes))?;
        handle::provide(descriptors, || codec::decode(&mut Cursor::new(&bytes)))
    }

    #[track_caller]
    fn is_refused<T: Wire>(kind: ObjectKind, fingerprint: u64) {
        for bytes in [0, 8] {
            let object = Object::create(kind, fingerprint, bytes).expect("shared memory");
            assert!(
                decoded::<T>(&object, kind).is_err(),
                "a {kind} of {bytes} bytes"
            );
        }
    }

    #[test]
    fn an_object_that_is_too_short_is_refused() {
        is_refused::<Lock>(ObjectKind::Lock, 0);
        is_refused::<RLock>(ObjectKind::RLock, 0);
        is_refused::<Semaphore>(ObjectKind::Semaphore, 0);
        is_refused::<BoundedSemaphore>(ObjectKind::BoundedSemaphore, 0);
        is_refused::<Condition>(ObjectKind::Condition, 0);
        is_refused::<Event>(ObjectKind::Event, 0);
        is_refused::<Barrier>(ObjectKind::Barrier, 0);
        is_refused::<Value<u64>>(ObjectKind::Value, fingerprint::<u64>());
        is_refused::<Array<u64>>(ObjectKind::Array, fingerprint::<u64>());
        let object = Object::create(ObjectKind::Atomic, fingerprint::<u64>(), 0);
        let object = object.expect("shared memory");
        assert!(decoded::<Atomic<u64>>(&object, ObjectKind::Atomic).is_err());
    }

    /// Overwrites each word after `start` in a new object, and uses the object each time.
    fn overwrite<T: super::Handle>(start: usize, make: impl Fn() -> T, use_it: impl Fn(&T)) {
        let length = make().object().view().len();
        for word in (start..length).step_by(8) {
            for value in [0, 1, 2, 1 << 16, 1 << 32, 0xffff << 16, 1 << 63, u64::MAX] {
                let made = make();
                let memory = made.object().view().map_part(0..length).expect("a mapping");
                memory.atomic_u64(word).store(value, Ordering::Relaxed);
                use_it(&made);
            }
        }
    }

    #[test]
    fn any_word_of_a_semaphore_may_be_overwritten_and_every_call_ends() {
        let make = || Semaphore::new(1).expect("a semaphore");
        overwrite(Object::BODY, make, |semaphore| {
            let _ = (semaphore.acquire_timeout(SOON), semaphore.release());
            let _ = (semaphore.value(), semaphore.release());
        });
    }

    #[test]
    fn any_word_of_an_event_may_be_overwritten_and_every_call_ends() {
        let make = || Event::new().expect("an event");
        overwrite(Object::BODY, make, |event| {
            let _ = (event.wait_timeout(SOON), event.set());
            let _ = (event.is_set(), event.clear());
        });
    }

    #[test]
    fn any_word_of_a_condition_may_be_overwritten_and_every_call_ends() {
        let make = || Condition::new().expect("a condition");
        overwrite(Object::BODY + 64, make, |condition| {
            condition.notify_one();
            let _ = condition.lock().expect("a lock").wait_timeout(SOON);
            condition.notify_all();
        });
    }

    #[test]
    fn any_word_of_a_barrier_may_be_overwritten_and_every_call_ends() {
        let make = || Barrier::new(2).expect("a barrier");
        overwrite(Object::BODY + 64, make, |barrier| {
            let _ = (barrier.parties(), barrier.waiting());
            let _ = (barrier.wait_timeout(SOON), barrier.abort());
            let _ = (barrier.reset(), barrier.wait_timeout(SOON));
        });
    }

    #[test]
    fn any_word_of_an_array_may_be_overwritten_and_every_call_ends() {
        let make = || Array::<u64>::new(4).expect("an array");
        overwrite(Object::BODY + 72, make, |array| {
            let _ = (array.clone().len(), array.to_vec());
            let _ = (array.get(3), array.set(3, 1));
        });
    }

    #[test]
    fn any_word_of_a_value_may_be_overwritten_and_every_call_ends() {
        let make = || Value::new(1u64).expect("a value");
        overwrite(Object::BODY + 72, make, |value| {
            let _ = (value.clone().get(), value.set(2));
        });
    }

    #[test]
    fn a_waiter_that_was_overwritten_goes_on() {
        let condition = Condition::new().expect("a condition");
        let word = |view: &View| view.atomic_u64(Object::BODY + 64).load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| condition.lock().expect("a lock").wait().is_ok());
            let view = super::Handle::object(&condition).view();
            while word(view) == 0 {
                std::thread::yield_now();
            }
            view.atomic_u64(Object::BODY + 64)
                .store(0, Ordering::Relaxed);
            condition.notify_all();
            assert!(waiter.join().expect("no panic"));
        });
    }
}
