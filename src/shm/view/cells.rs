//! Plain data protected by a robust mutex: the only place where shared bytes become references.

#![expect(
    unsafe_code,
    reason = "references to shared memory that a mutex protects"
)]

use super::View;
use crate::shm::lent::Lent;
use crate::sys::{
    pid::{self, ProcessIdentity},
    robust::{LockState, MutexError, MutexKind, RobustMutex},
};
use crate::wire::kind::ObjectKind;
use bytemuck::Pod;
use std::{
    fmt, io,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    slice,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Plain items protected by a robust mutex: the only place where shared bytes become references. Of
/// all processes, only the holder of the mutex has any.
///
/// The mutex is followed by two words and the items:
///
/// | `holder` | meaning |
/// |---|---|
/// | 0 | no process has references to the items, except through a living guard |
/// | a [`ProcessIdentity`] | a guard of that process holds the mutex, was leaked, or died |
/// | all bits | references may exist forever: the items are inaccessible |
///
/// | `count` | the number of items without bytes; otherwise the object's length gives it |
///
/// # References that outlive their mutex
///
/// The kernel unlocks a mutex when its thread ends. If the whole process has died, its references
/// are gone, too. But a guard may also be leaked, and other threads may use its references after
/// its thread has ended. The next holder therefore checks the identity of the last one. If that
/// process lives, the items stay inaccessible, unless it has dropped the `Cells` that the guard
/// borrowed, which ends all references.
///
/// A forked copy of the process would have the references, too, so safe functions do not fork while
/// there is a guard, even a leaked one: see [`guards`](crate::shm::guards).
pub(crate) struct Cells<T> {
    mutex: RobustMutex,
    view: View,
    start: usize,
    count: usize,
    lent: Lent,
    items: PhantomData<fn() -> T>,
}

/// The reason why items are inaccessible.
#[derive(Debug)]
pub(crate) enum CellsError {
    Refused(MutexError),
    /// A thread has ended and may have left references.
    Leaked,
}

const LEAKED: u64 = u64::MAX;

/// Maximum time for a process to end after one of its threads has. A process with much memory takes
/// a while.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

impl<T> Cells<T> {
    const WORDS: usize = RobustMutex::SIZE;
    const ALIGNED: () = assert!(
        align_of::<T>() <= 4096,
        "alignments above a page are unsupported"
    );

    /// Returns the offset of the items, after a mutex at `offset`.
    fn items_at(offset: usize) -> usize {
        let () = Self::ALIGNED;
        (offset + Self::WORDS + 16).next_multiple_of(align_of::<T>())
    }

    /// Returns the length in bytes from `offset` for `count` items; `None` if it exceeds the
    /// address space.
    pub(crate) fn size(offset: usize, count: usize) -> Option<usize> {
        let size = size_of::<T>().checked_mul(count)?;
        let end = Self::items_at(offset).checked_add(size)?;
        isize::try_from(end).ok().map(|_| end - offset)
    }

    /// Creates items of all zeros in zeroed memory that no other process has yet.
    pub(crate) fn create(
        view: View,
        offset: usize,
        kind: ObjectKind,
        count: usize,
    ) -> io::Result<Self> {
        RobustMutex::create(view.mapping().clone(), offset, MutexKind::ErrorCheck)?;
        let word = view.atomic_u64(offset + Self::WORDS + 8);
        word.store(count as u64, Ordering::Relaxed);
        Ok(Self::open(view, offset, kind))
    }

    /// Returns the number of items of a handle of this kind: an array has as many as fit into the
    /// view.
    fn count_in(view: &View, offset: usize, kind: ObjectKind) -> usize {
        if kind == ObjectKind::Value {
            return 1;
        }
        let bytes = view.len().saturating_sub(Self::items_at(offset));
        bytes.checked_div(size_of::<T>()).unwrap_or_else(|| {
            let count = view.atomic_u64(offset + Self::WORDS + 8);
            count.load(Ordering::Relaxed) as usize
        })
    }

    /// Opens items that their creator has initialised. `offset` must be a multiple of
    /// [`RobustMutex::SIZE`].
    pub(crate) fn open(view: View, offset: usize, kind: ObjectKind) -> Self {
        let count = Self::count_in(&view, offset, kind);
        let start = Self::items_at(offset);
        // Panics if the items exceed the view.
        let size = Self::size(offset, count).unwrap_or(usize::MAX);
        view.checked_ptr(offset, size);
        Self {
            mutex: RobustMutex::open(view.mapping().clone(), offset),
            start,
            count,
            lent: Lent::new(kind),
            view,
            items: PhantomData,
        }
    }

    /// Returns the number of items.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    #[inline]
    fn holder(&self) -> &AtomicU64 {
        let offset = self.mutex.offset() + Self::WORDS;
        self.view.atomic_u64(offset)
    }
}

impl<T: Pod> Cells<T> {
    /// Locks the items. Blocks until the mutex is free.
    #[inline]
    pub(crate) fn lock(&self) -> Result<(CellsGuard<'_, T>, LockState), CellsError> {
        let mut taken = self.mutex.lock().map_err(CellsError::Refused)?;
        // Acquire: pairs with the release in `Cells::drop`, which runs without the mutex. All
        // other accesses to these words are relaxed, because the mutex orders them.
        let holder = self.holder().load(Ordering::Acquire);
        if taken == LockState::OwnerDied || holder != 0 {
            self.check_predecessor(holder)?;
            taken = LockState::OwnerDied;
        }
        let process = ProcessIdentity::current();
        self.holder().store(process.0, Ordering::Relaxed);
        let process = process.pid();
        self.lent.begin(process);
        let guard = CellsGuard {
            cells: self,
            process,
            bound_to_thread: PhantomData,
        };
        Ok((guard, taken))
    }

    /// Unlocks the mutex and fails, unless a holder whose thread has ended can have no references
    /// left.
    #[cold]
    fn check_predecessor(&self, holder: u64) -> Result<(), CellsError> {
        let refused = match Self::is_unreferenced(holder) {
            Ok(true) => return Ok(()),
            Ok(false) => {
                self.holder().store(LEAKED, Ordering::Relaxed);
                CellsError::Leaked
            }
            // Keep the holder, so that the next call checks again.
            Err(error) => CellsError::Refused(MutexError::Failed(error)),
        };
        self.mutex.unlock();
        Err(refused)
    }

    fn is_unreferenced(holder: u64) -> io::Result<bool> {
        match holder {
            0 => Ok(true),
            LEAKED => Ok(false),
            own if own == ProcessIdentity::current().0 => Ok(false),
            other => ProcessIdentity(other).has_ended(EXIT_TIMEOUT),
        }
    }
}

impl<T> Drop for Cells<T> {
    fn drop(&mut self) {
        if self.lent.is_here() {
            let own = ProcessIdentity::current();
            // A guard was leaked. Its references borrow from the value that is dropped here, so
            // they are gone. Release: the next holder, which loads 0, must see the writes through
            // those references. The mutex does not order them, because this process does not hold
            // it.
            let (order, otherwise) = (Ordering::Release, Ordering::Relaxed);
            // This fails if another process has marked the items as leaked.
            let _ = self.holder().compare_exchange(own.0, 0, order, otherwise);
        }
    }
}

impl<T> fmt::Debug for Cells<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cells")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// Holds the mutex of [`Cells`] and gives access to the items.
#[derive(Debug)]
pub(crate) struct CellsGuard<'a, T> {
    cells: &'a Cells<T>,
    process: u32,
    /// A robust mutex belongs to its thread.
    bound_to_thread: PhantomData<*const T>,
}

impl<T> CellsGuard<'_, T> {
    /// Returns the address of the items.
    #[inline]
    fn items(&self) -> *mut T {
        assert!(
            self.process == pid::current(),
            "a forked copy of the process that holds the lock must not access the data"
        );
        let size = size_of::<T>() * self.cells.count;
        self.cells.view.checked_ptr(self.cells.start, size).cast()
    }
}

impl<T: Pod> Deref for CellsGuard<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the range is inside the mapping and aligned (see `checked_ptr` and `items_at`),
        // and any bits are a valid `Pod`. This thread holds the mutex, so no `&mut` to the items
        // exists in any process (see `Cells`).
        unsafe { slice::from_raw_parts(self.items(), self.cells.count) }
    }
}

impl<T: Pod> DerefMut for CellsGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above. No `&` exists either, as `&mut self` is the only access to the items.
        unsafe { slice::from_raw_parts_mut(self.items(), self.cells.count) }
    }
}

impl<T> Drop for CellsGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.process == pid::current() {
            self.cells.lent.end();
            // Clear the holder first. Otherwise a next holder that is killed before it stores its
            // identity would be mistaken for this process.
            self.cells.holder().store(0, Ordering::Relaxed);
            self.cells.mutex.unlock();
        }
    }
}
