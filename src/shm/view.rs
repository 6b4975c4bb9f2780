//! Reading and writing shared memory: atomics and copies, never a reference to plain bytes.
//!
//! Another process may change the bytes at any time. Copies in and out are therefore raw, what was
//! copied out is checked before it is believed, and words that both sides use are atomics. That a
//! peer which breaks the protocol can tear a copy is accepted: the result is bytes that do not
//! decode, in a process that still does what it should. The exception is plain data behind a mutex,
//! [`Cells`].

#![expect(
    unsafe_code,
    reason = "raw access to memory that other processes change"
)]

use super::lent::Lent;
use crate::sys::{
    memory::Mapping,
    pid::{self, ProcessIdentity},
    robust::{LockState, MutexError, MutexKind, RobustMutex},
};
use crate::wire::{codec::ByteSource, kind::ObjectKind};
use bytemuck::Pod;
use std::{
    fmt, io,
    marker::PhantomData,
    ops::{Deref, DerefMut, Range},
    os::fd::{AsFd, BorrowedFd},
    ptr, slice,
    sync::atomic::{
        AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32,
        AtomicU64, AtomicUsize, Ordering,
    },
    time::Duration,
};

/// The bytes of one mapping. Clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct View(Mapping);

impl View {
    pub(super) fn new(mapping: Mapping) -> Self {
        Self(mapping)
    }

    pub(super) fn grow(&mut self, bytes: usize) -> io::Result<()> {
        self.0.grow(bytes)
    }

    pub(super) fn follow_growth(&mut self) -> io::Result<()> {
        self.0.follow_growth()
    }

    pub(super) fn close_file(&mut self) {
        self.0.close_file();
    }

    /// Maps another part of the same file, which must begin at a page.
    pub(crate) fn map_part(&self, part: Range<usize>) -> io::Result<Self> {
        let mapping = Mapping::part(self.0.file().clone(), part.start, part.len());
        mapping.map(Self)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.length()
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.0
    }

    /// The word at `offset`, which must be aligned and inside.
    #[inline]
    pub(crate) fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        self.word(offset)
    }

    /// The double word at `offset`, which must be aligned and inside.
    #[inline]
    pub(crate) fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        self.word(offset)
    }

    /// The atomic at `offset`, which must be aligned and inside.
    #[inline]
    pub(crate) fn word<W: AtomicWord>(&self, offset: usize) -> &W {
        let word = self.checked_ptr(offset, size_of::<W>());
        assert!(
            offset.is_multiple_of(align_of::<W>()),
            "word at {offset} is not aligned"
        );
        // SAFETY: inside the mapping and aligned, as was just checked; any bits are a valid atomic,
        // every process uses it as an atomic only, and the borrow of `self` keeps it mapped.
        unsafe { &*word.cast::<W>() }
    }

    /// The double words from `offset` on, which must be aligned and inside.
    #[inline]
    pub(crate) fn atomic_u64s<const N: usize>(&self, offset: usize) -> &[AtomicU64; N] {
        let words = self.checked_ptr(offset, size_of::<[AtomicU64; N]>());
        assert!(
            offset.is_multiple_of(align_of::<AtomicU64>()),
            "words at {offset} are not aligned"
        );
        // SAFETY: as for `atomic_u32`, each of them.
        unsafe { &*words.cast() }
    }

    /// Copies `bytes` to `offset`.
    #[inline]
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let to = self.checked_ptr(offset, bytes.len());
        // SAFETY: the range is inside the mapping, as was just checked, and no slice of this
        // process lies in it: those that `Cells` give out lie in objects of their own, into which
        // nothing is copied.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Appends `len` bytes from `offset` to `into`.
    pub(crate) fn copy_out(&self, offset: usize, length: usize, into: &mut Vec<u8>) {
        into.reserve(length);
        self.cursor(offset, length).append_to(into);
    }

    /// Reads `len` bytes from `offset` one after the other.
    pub(crate) fn cursor(&self, offset: usize, length: usize) -> Cursor<'_> {
        let next = self.checked_ptr(offset, length).cast_const();
        Cursor {
            next,
            left: length,
            bytes: PhantomData,
        }
    }

    /// The address of a range, which must be inside the mapping.
    #[inline]
    fn checked_ptr(&self, offset: usize, length: usize) -> *mut u8 {
        let inside = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.0.length());
        assert!(
            inside,
            "{length} bytes at {offset} are outside of shared memory"
        );
        // SAFETY: the offset is at most the length of the mapping, as was just checked.
        unsafe { self.0.start().as_ptr().add(offset) }
    }
}

/// The integers' atomics.
///
/// # Safety
///
/// Any bits are one, and all of its operations are atomic without a lock, which other processes
/// would not know of.
pub(crate) unsafe trait AtomicWord {}

macro_rules! words {
    ($($word:ty)*) => {
        $(
            // SAFETY: the standard library says so of its atomics, where they exist.
            unsafe impl AtomicWord for $word {}
        )*
    };
}
words!(AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize);

impl AsFd for View {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Plain items behind a robust mutex, the one place where shared bytes become references: whoever
/// holds the mutex is the only one, of all processes, who has any.
///
/// Behind the mutex lie two words, then the items:
///
/// | `holder` | meaning |
/// |---|---|
/// | 0 | no process has references to the items but a living guard's |
/// | an [`Identity`] | a guard of this process holds the mutex, was leaked, or died with it |
/// | all bits | references may be left behind for ever: the items cannot be had again |
///
/// | `count` | how many items there are, if they have no bytes: else the length of the object tells |
///
/// # References that outlive their mutex
///
/// The kernel lets a mutex go when its thread ends. If that is because of the process's death, all
/// references go with it. But a guard may also be leaked, and references that it gave out be used
/// by other threads when its own has ended. So whoever comes after an end looks who it was: if that
/// process lives, and has not dropped the `Cells` that the guard borrowed (with which all
/// references are gone), nobody gets the items any more.
///
/// A copy of the process would have the references, too, so that no safe call makes one while a
/// guard is there or leaked: see [`guards`](super::guards).
pub(crate) struct Cells<T> {
    mutex: RobustMutex,
    view: View,
    start: usize,
    count: usize,
    lent: Lent,
    items: PhantomData<fn() -> T>,
}

/// Why items cannot be had.
#[derive(Debug)]
pub(crate) enum CellsError {
    Refused(MutexError),
    /// A thread has ended and left references behind.
    Leaked,
}

const LEAKED: u64 = u64::MAX;

/// How long a process may take to end when one of its threads has ended. With much memory it takes
/// a while.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

impl<T> Cells<T> {
    const WORDS: usize = RobustMutex::SIZE;
    const ALIGNED: () = assert!(align_of::<T>() <= 4096, "no alignment beyond a page's");

    /// Where the items begin, behind `offset`.
    fn items_at(offset: usize) -> usize {
        let () = Self::ALIGNED;
        (offset + Self::WORDS + 16).next_multiple_of(align_of::<T>())
    }

    /// Bytes behind `offset` that so many items need; none if there are not so many anywhere.
    pub(crate) fn size(offset: usize, count: usize) -> Option<usize> {
        let size = size_of::<T>().checked_mul(count)?;
        let end = Self::items_at(offset).checked_add(size)?;
        isize::try_from(end).ok().map(|_| end - offset)
    }

    /// Makes zeros that nobody else knows yet into items, all of zeros.
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

    /// Returns how many items a handle of this kind has: in an array, those that end with the view.
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

    /// Items that their maker has created, for a handle of this kind. `offset` must be a multiple
    /// of [`RobustMutex::SIZE`].
    pub(crate) fn open(view: View, offset: usize, kind: ObjectKind) -> Self {
        let count = Self::count_in(&view, offset, kind);
        let start = Self::items_at(offset);
        // It panics where they are not inside.
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

    /// How many items there are.
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
    /// Waits for the items.
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

    /// Lets the mutex go unless no reference can be left of a holder whose thread has ended.
    #[cold]
    fn check_predecessor(&self, holder: u64) -> Result<(), CellsError> {
        let refused = match Self::is_unreferenced(holder) {
            Ok(true) => return Ok(()),
            Ok(false) => {
                self.holder().store(LEAKED, Ordering::Relaxed);
                CellsError::Leaked
            }
            // The holder stays, so that the next one looks again.
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
            // A guard was leaked: the references that it gave out have borrowed from what is
            // dropped here, and are gone. Release: the next holder, which loads 0, sees what was
            // written through those references. The mutex does not order that: this process does
            // not hold it.
            let (order, otherwise) = (Ordering::Release, Ordering::Relaxed);
            // It fails where others have found that one was left.
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

/// Holds the items of [`Cells`], and is the way to them.
#[derive(Debug)]
pub(crate) struct CellsGuard<'a, T> {
    cells: &'a Cells<T>,
    process: u32,
    /// The mutex is its thread's.
    bound_to_thread: PhantomData<*const T>,
}

impl<T> CellsGuard<'_, T> {
    /// The address of the items.
    #[inline]
    fn items(&self) -> *mut T {
        assert!(
            self.process == pid::current(),
            "this is a copy of the process that holds the lock, and must not touch what it protects"
        );
        let size = size_of::<T>() * self.cells.count;
        self.cells.view.checked_ptr(self.cells.start, size).cast()
    }
}

impl<T: Pod> Deref for CellsGuard<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: inside of the mapping and aligned, as `checked_ptr` and `items_at` see to; any
        // bits are a `Pod`; and as this thread of this process holds the mutex, nobody has a `&mut`
        // to them, here or in another process (see `Cells`).
        unsafe { slice::from_raw_parts(self.items(), self.cells.count) }
    }
}

impl<T: Pod> DerefMut for CellsGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and nobody has a `&` either: `&mut self` is the only way to one.
        unsafe { slice::from_raw_parts_mut(self.items(), self.cells.count) }
    }
}

impl<T> Drop for CellsGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.process == pid::current() {
            self.cells.lent.end();
            // Or the next one, killed before it has said who it is, would be taken for this
            // process.
            self.cells.holder().store(0, Ordering::Relaxed);
            self.cells.mutex.unlock();
        }
    }
}

/// Copies values out of bytes, shared or private, from the first to the last.
pub(crate) struct Cursor<'a> {
    next: *const u8,
    left: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Cursor<'a> {
    /// Reads private bytes.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            next: bytes.as_ptr(),
            left: bytes.len(),
            bytes: PhantomData,
        }
    }
}

impl Cursor<'_> {
    /// Appends all that is left to `into`, which must have the capacity.
    fn append_to(&mut self, into: &mut Vec<u8>) {
        let spare = into.spare_capacity_mut();
        assert!(spare.len() >= self.left, "no room for what is to be copied");
        let end = spare.as_mut_ptr().cast();
        // SAFETY: `left` bytes from `next` on are readable, as for `take`, and so many fit behind
        // the vector's end.
        unsafe { ptr::copy_nonoverlapping(self.next, end, self.left) };
        // SAFETY: those bytes have just been written.
        unsafe { into.set_len(into.len() + self.left) };
        self.left = 0;
    }
}

impl ByteSource for Cursor<'_> {
    #[inline]
    fn take(&mut self, into: &mut [u8]) -> bool {
        if into.len() > self.left {
            return false;
        }
        // SAFETY: `left` bytes from `next` on are readable for the lifetime of the cursor, as its
        // constructors know, and `into` is a slice of this process, which never lies among them
        // (see `copy_in`).
        unsafe { ptr::copy_nonoverlapping(self.next, into.as_mut_ptr(), into.len()) };
        // SAFETY: at most `left` bytes further, so still inside or at the end.
        self.next = unsafe { self.next.add(into.len()) };
        self.left -= into.len();
        true
    }

    fn take_all(&mut self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(self.left).ok()?;
        self.append_to(&mut bytes);
        Some(bytes)
    }

    fn remaining(&self) -> usize {
        self.left
    }
}

impl fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::Segment;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let segment = Segment::anonymous(4096).expect("shared memory");
        segment.view().copy_in(100, b"abcdef");
        let mut out = vec![b'>'];
        segment.view().copy_out(101, 4, &mut out);
        assert_eq!(out, b">bcde");
        let mut three = [0; 3];
        let mut cursor = segment.view().cursor(100, 6);
        assert!(cursor.take(&mut three));
        assert_eq!((&three, cursor.remaining()), (b"abc", 3));
        assert!(!cursor.take(&mut [0; 4]));
    }

    #[test]
    fn growth_keeps_what_was_there() {
        let mut segment = Segment::anonymous(4096).expect("shared memory");
        segment.view().copy_in(4000, b"kept");
        segment.grow(1 << 20).expect("growth");
        let mut out = Vec::new();
        segment.view().copy_out(4000, 4, &mut out);
        assert_eq!(out, b"kept");
        assert_eq!(segment.view().len(), 1 << 20);
    }

    #[test]
    #[should_panic(expected = "outside of shared memory")]
    fn a_copy_past_the_end_is_refused() {
        let segment = Segment::anonymous(4096).expect("shared memory");
        segment.view().copy_in(4090, b"too long");
    }
}
