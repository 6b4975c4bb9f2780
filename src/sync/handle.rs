//! What all handles have in common: they are cloned, printed, and sent as the object that they
//! refer to.

use crate::shm::{Object, ObjectKind};

/// A handle to an [`Object`], and what this process keeps beside it.
pub(super) trait Handle: Sized {
    const KIND: ObjectKind;

    /// Of the type of what lies in the object.
    fn fingerprint() -> u64 {
        0
    }

    /// Bytes of the smallest object of this kind.
    fn least() -> usize;

    fn object(&self) -> &Object;

    /// Another handle, to an object of this kind and type.
    fn of(object: Object) -> Self;
}

/// Implements for a [`Handle`] what every one is.
macro_rules! handle {
    ($name:ident $(<$item:ident>)?) => {
        /// Another handle to the same.
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

    /// What a peer makes of an object.
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

    /// Overwrites each word behind `start` in a new object, and uses that.
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
    fn any_word_may_be_overwritten_and_every_call_ends() {
        let body = Object::BODY;
        overwrite(
            body,
            || Semaphore::new(1).expect("one"),
            |it| {
                let _ = (
                    it.acquire_timeout(SOON),
                    it.release(),
                    it.value(),
                    it.release(),
                );
            },
        );
        overwrite(
            body,
            || Event::new().expect("one"),
            |it| {
                let _ = (it.wait_timeout(SOON), it.set(), it.is_set(), it.clear());
            },
        );
        overwrite(
            body + 64,
            || Condition::new().expect("one"),
            |it| {
                it.notify_one();
                let _ = it.lock().expect("a lock").wait_timeout(SOON);
                it.notify_all();
            },
        );
        overwrite(
            body + 64,
            || Barrier::new(2).expect("one"),
            |it| {
                let _ = (
                    it.parties(),
                    it.waiting(),
                    it.wait_timeout(SOON),
                    it.abort(),
                );
                let _ = (it.reset(), it.wait_timeout(SOON));
            },
        );
        overwrite(
            body + 72,
            || Array::<u64>::new(4).expect("one"),
            |it| {
                let _ = (it.clone().len(), it.to_vec(), it.get(3), it.set(3, 1));
            },
        );
        overwrite(
            body + 72,
            || Value::new(1u64).expect("one"),
            |it| {
                let _ = (it.clone().get(), it.set(2));
            },
        );
    }

    #[test]
    fn a_waiter_that_was_overwritten_goes_on() {
        let condition = Condition::new().expect("one");
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
