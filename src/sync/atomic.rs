//! Lock-free integers and flags in shared memory.

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

/// An integer or `bool` in shared memory that processes change without a lock.
///
/// Works like the types of `std::sync::atomic`, with the same orderings and the same panics for
/// invalid orderings. If a process dies during an operation, the operation has happened or not.
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

/// A type that an [`Atomic`] can hold: an integer or `bool`.
pub trait AtomicPrimitive: sealed::SealedPrimitive {}

/// A type of an [`Atomic`] that supports arithmetic: an integer.
pub trait AtomicInteger: AtomicPrimitive + sealed::SealedInteger {}

/// The operations, named as in the standard library.
mod sealed {
    use super::{AtomicWord, Debug, Ordering};

    #[expect(private_bounds, reason = "no other crate names it")]
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
            primitive!($type, $word, |value| value, |value| value);

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
// A byte, because any bits are valid for it, unlike for an `AtomicBool`.
primitive!(bool, AtomicU8, u8::from, |byte| byte != 0);

impl<T: AtomicPrimitive> Atomic<T> {
    /// Creates an atomic with an initial value.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the memory or the descriptor cannot be created.
    pub fn new(value: T) -> Result<Self> {
        let atomic = Self::of(Object::create(
            Self::KIND,
            fingerprint::<T>(),
            size_of::<T>(),
        )?);
        // Relaxed: no other process has it yet.
        atomic.store(value, Ordering::Relaxed);
        Ok(atomic)
    }

    #[inline]
    fn word(&self) -> &T::Word {
        self.object.view().word(Object::BODY)
    }

    /// Loads the value.
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

    /// Stores a value and returns the previous one.
    #[inline]
    pub fn swap(&self, value: T, order: Ordering) -> T {
        T::swap(self.word(), value, order)
    }

    /// Stores `new` if the value is `current`. Returns the previous value.
    ///
    /// # Errors
    ///
    /// The current value, if it is not `current`.
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

    /// Like [`compare_exchange`](Self::compare_exchange), but may fail spuriously, which is faster
    /// on some platforms.
    ///
    /// # Errors
    ///
    /// The current value.
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

    /// Stores the result of `f(value)`, and calls `f` again if the value has changed in between.
    /// Returns the previous value.
    ///
    /// # Errors
    ///
    /// The current value, if `f` returns `None` for it.
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

    /// Computes the bitwise `value & operand`, stores it, and returns the previous value.
    #[inline]
    pub fn fetch_and(&self, operand: T, order: Ordering) -> T {
        T::and(self.word(), operand, order)
    }

    /// Computes the bitwise `value | operand`, stores it, and returns the previous value.
    #[inline]
    pub fn fetch_or(&self, operand: T, order: Ordering) -> T {
        T::or(self.word(), operand, order)
    }

    /// Computes the bitwise `value ^ operand`, stores it, and returns the previous value.
    #[inline]
    pub fn fetch_xor(&self, operand: T, order: Ordering) -> T {
        T::xor(self.word(), operand, order)
    }
}

impl<T: AtomicInteger> Atomic<T> {
    /// Adds to the value, wrapping around on overflow. Returns the previous value.
    #[inline]
    pub fn fetch_add(&self, operand: T, order: Ordering) -> T {
        T::add(self.word(), operand, order)
    }

    /// Subtracts from the value, wrapping around on overflow. Returns the previous value.
    #[inline]
    pub fn fetch_sub(&self, operand: T, order: Ordering) -> T {
        T::sub(self.word(), operand, order)
    }

    /// Stores the maximum of value and operand. Returns the previous value.
    #[inline]
    pub fn fetch_max(&self, operand: T, order: Ordering) -> T {
        T::max(self.word(), operand, order)
    }

    /// Stores the minimum of value and operand. Returns the previous value.
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
