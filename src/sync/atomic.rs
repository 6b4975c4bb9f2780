//! Lock-free numbers and flags.

use super::handle::{Handle, handle};
use crate::error::Result;
use crate::shm::{AtomicWord, Object, ObjectKind, fingerprint};
use sealed::{SealedInteger, SealedPrimitive};
use std::{
    fmt::Debug,
    marker::PhantomData,
    sync::atomic::{
        AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32,
        AtomicU64, AtomicUsize, Ordering,
    },
};

/// An integer or `bool` in shared memory, which processes change without a lock.
///
/// As those of `std::sync::atomic`, with the same orderings and the same panics for orderings that
/// make no sense. A process that dies has done an operation or has not.
///
/// # Examples
///
/// ```
/// use procpool::{Atomic, Process};
/// use std::sync::atomic::Ordering::Relaxed;
///
/// let hits = Atomic::new(0u64)?;
/// let count = |hits: Atomic<u64>| {
///     for _ in 0..1000 {
///         hits.fetch_add(1, Relaxed);
///     }
/// };
/// let processes = [Process::start(count, hits.clone())?, Process::start(count, hits.clone())?];
/// for process in processes {
///     process.result()?;
/// }
/// assert_eq!(hits.load(Relaxed), 2000);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Atomic<T> {
    object: Object,
    value: PhantomData<fn() -> T>,
}

/// The types that an [`Atomic`] can hold: the integers and `bool`.
pub trait AtomicPrimitive: sealed::SealedPrimitive {}

/// The types of an [`Atomic`] that can be calculated with.
pub trait AtomicInteger: AtomicPrimitive + sealed::SealedInteger {}

/// The operations, by the names of the standard library.
mod sealed {
    use super::{AtomicWord, Debug, Ordering};

    #[expect(private_bounds, reason = "nobody else names it")]
    pub trait SealedPrimitive: Copy + Debug + Send + Sync + 'static {
        type Word: AtomicWord;
        fn load(word: &Self::Word, order: Ordering) -> Self;
        fn store(word: &Self::Word, value: Self, order: Ordering);
        fn swap(word: &Self::Word, value: Self, order: Ordering) -> Self;
        fn exchange(
            word: &Self::Word,
            values: [Self; 2],
            orders: [Ordering; 2],
        ) -> Result<Self, Self>;
        fn exchange_weak(
            word: &Self::Word,
            values: [Self; 2],
            orders: [Ordering; 2],
        ) -> Result<Self, Self>;
        fn and(word: &Self::Word, value: Self, order: Ordering) -> Self;
        fn or(word: &Self::Word, value: Self, order: Ordering) -> Self;
        fn xor(word: &Self::Word, value: Self, order: Ordering) -> Self;
    }

    pub trait SealedInteger: SealedPrimitive {
        fn add(word: &Self::Word, value: Self, order: Ordering) -> Self;
        fn sub(word: &Self::Word, value: Self, order: Ordering) -> Self;
        fn max(word: &Self::Word, value: Self, order: Ordering) -> Self;
        fn min(word: &Self::Word, value: Self, order: Ordering) -> Self;
    }
}

/// Implements the operations for a type whose atomic holds it as `$bits`.
macro_rules! primitive {
    ($type:ty, $word:ty, $to:expr, $of:expr) => {
        impl AtomicPrimitive for $type {}

        impl SealedPrimitive for $type {
            type Word = $word;

            #[inline]
            fn load(word: &$word, order: Ordering) -> Self {
                $of(word.load(order))
            }

            #[inline]
            fn store(word: &$word, value: Self, order: Ordering) {
                word.store($to(value), order);
            }

            #[inline]
            fn swap(word: &$word, value: Self, order: Ordering) -> Self {
                $of(word.swap($to(value), order))
            }

            #[inline]
            fn exchange(
                word: &$word,
                [current, new]: [Self; 2],
                [success, failure]: [Ordering; 2],
            ) -> Result<Self, Self> {
                let outcome = word.compare_exchange($to(current), $to(new), success, failure);
                outcome.map($of).map_err($of)
            }

            #[inline]
            fn exchange_weak(
                word: &$word,
                [current, new]: [Self; 2],
                [success, failure]: [Ordering; 2],
            ) -> Result<Self, Self> {
                let outcome = word.compare_exchange_weak($to(current), $to(new), success, failure);
                outcome.map($of).map_err($of)
            }

            #[inline]
            fn and(word: &$word, value: Self, order: Ordering) -> Self {
                $of(word.fetch_and($to(value), order))
            }

            #[inline]
            fn or(word: &$word, value: Self, order: Ordering) -> Self {
                $of(word.fetch_or($to(value), order))
            }

            #[inline]
            fn xor(word: &$word, value: Self, order: Ordering) -> Self {
                $of(word.fetch_xor($to(value), order))
            }
        }
    };
}

macro_rules! integers {
    ($($type:ty: $word:ty),*) => {
        $(
            primitive!($type, $word, |it| it, |it| it);

            impl AtomicInteger for $type {}

            impl SealedInteger for $type {
                #[inline]
                fn add(word: &$word, value: Self, order: Ordering) -> Self {
                    word.fetch_add(value, order)
                }

                #[inline]
                fn sub(word: &$word, value: Self, order: Ordering) -> Self {
                    word.fetch_sub(value, order)
                }

                #[inline]
                fn max(word: &$word, value: Self, order: Ordering) -> Self {
                    word.fetch_max(value, order)
                }

                #[inline]
                fn min(word: &$word, value: Self, order: Ordering) -> Self {
                    word.fetch_min(value, order)
                }
            }
        )*
    };
}

integers!(
    u8: AtomicU8, u16: AtomicU16, u32: AtomicU32, u64: AtomicU64, usize: AtomicUsize,
    i8: AtomicI8, i16: AtomicI16, i32: AtomicI32, i64: AtomicI64, isize: AtomicIsize
);
// A byte, of which any bits are valid, unlike those of an `AtomicBool`.
primitive!(bool, AtomicU8, u8::from, |it| it != 0);

impl<T: AtomicPrimitive> Atomic<T> {
    /// Makes one with a value in it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when the system gives no memory or no descriptor.
    pub fn new(value: T) -> Result<Self> {
        let atomic = Self::of(Object::create(
            Self::KIND,
            fingerprint::<T>(),
            size_of::<T>(),
        )?);
        // Relaxed: nobody else knows it yet.
        atomic.store(value, Ordering::Relaxed);
        Ok(atomic)
    }

    #[inline]
    fn word(&self) -> &T::Word {
        self.object.view().word(Object::BODY)
    }

    /// Its value.
    #[must_use]
    #[inline]
    pub fn load(&self, order: Ordering) -> T {
        T::load(self.word(), order)
    }

    /// Stores a value.
    #[inline]
    pub fn store(&self, value: T, order: Ordering) {
        T::store(self.word(), value, order);
    }

    /// Stores a value; the one that was there.
    #[inline]
    pub fn swap(&self, value: T, order: Ordering) -> T {
        T::swap(self.word(), value, order)
    }

    /// Stores `new` if the value is `current`; the value that was there.
    ///
    /// # Errors
    ///
    /// The value that is there, if it is another.
    #[inline]
    pub fn compare_exchange(
        &self,
        current: T,
        new: T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<T, T> {
        T::exchange(self.word(), [current, new], [success, failure])
    }

    /// As [`compare_exchange`](Self::compare_exchange), but it may fail for nothing, which is
    /// faster on some machines.
    ///
    /// # Errors
    ///
    /// The value that is there.
    #[inline]
    pub fn compare_exchange_weak(
        &self,
        current: T,
        new: T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<T, T> {
        T::exchange_weak(self.word(), [current, new], [success, failure])
    }

    /// Stores what `f` makes of the value, called again when another was faster; the value that was
    /// there.
    ///
    /// # Errors
    ///
    /// The value that is there, if `f` makes nothing of it.
    pub fn fetch_update(
        &self,
        set_order: Ordering,
        fetch_order: Ordering,
        mut f: impl FnMut(T) -> Option<T>,
    ) -> Result<T, T> {
        let mut current = self.load(fetch_order);
        while let Some(new) = f(current) {
            match self.compare_exchange_weak(current, new, set_order, fetch_order) {
                Ok(before) => return Ok(before),
                Err(now) => current = now,
            }
        }
        Err(current)
    }

    /// Stores `value & operand`, bit by bit; the value that was there.
    #[inline]
    pub fn fetch_and(&self, operand: T, order: Ordering) -> T {
        T::and(self.word(), operand, order)
    }

    /// Stores `value | operand`, bit by bit; the value that was there.
    #[inline]
    pub fn fetch_or(&self, operand: T, order: Ordering) -> T {
        T::or(self.word(), operand, order)
    }

    /// Stores `value ^ operand`, bit by bit; the value that was there.
    #[inline]
    pub fn fetch_xor(&self, operand: T, order: Ordering) -> T {
        T::xor(self.word(), operand, order)
    }
}

impl<T: AtomicInteger> Atomic<T> {
    /// Adds to the value, wrapping around; the value that was there.
    #[inline]
    pub fn fetch_add(&self, operand: T, order: Ordering) -> T {
        T::add(self.word(), operand, order)
    }

    /// Subtracts from the value, wrapping around; the value that was there.
    #[inline]
    pub fn fetch_sub(&self, operand: T, order: Ordering) -> T {
        T::sub(self.word(), operand, order)
    }

    /// Stores the greater of value and operand; the value that was there.
    #[inline]
    pub fn fetch_max(&self, operand: T, order: Ordering) -> T {
        T::max(self.word(), operand, order)
    }

    /// Stores the lesser of value and operand; the value that was there.
    #[inline]
    pub fn fetch_min(&self, operand: T, order: Ordering) -> T {
        T::min(self.word(), operand, order)
    }
}

impl<T> Handle for Atomic<T> {
    const KIND: ObjectKind = ObjectKind::Atomic;

    fn least() -> usize {
        Object::BODY + size_of::<T>()
    }

    fn fingerprint() -> u64 {
        fingerprint::<T>()
    }

    fn object(&self) -> &Object {
        &self.object
    }

    fn of(object: Object) -> Self {
        Self {
            object,
            value: PhantomData,
        }
    }
}

handle!(Atomic<T>);
