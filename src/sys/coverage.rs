//! The profile of a program that was built with `-C instrument-coverage`, for processes that exit
//! without exit handlers.
//!
//! Only such a program links LLVM's runtime, so its functions are weak symbols: their addresses are
//! 0 if they are not linked. They are hidden symbols, which `dlsym` does not find.

use std::{
    ffi::{CStr, c_char, c_int},
    mem, ptr,
};

/// The default pattern of rustc, for a program whose environment has none.
const DEFAULT_NAME: &CStr = c"default_%m_%p.profraw";

/// Loads the address of a symbol that may not exist. Returns 0 if it does not, or on other
/// architectures.
macro_rules! weak_address {
    ($name:literal) => {{
        #[cfg(target_arch = "x86_64")]
        let address = {
            let address: usize;
            // SAFETY: it loads a word that the linker has put into the table of addresses, and
            // changes nothing else.
            unsafe {
                std::arch::asm!(
                    concat!(".weak ", $name),
                    concat!("mov {}, qword ptr [rip + ", $name, "@GOTPCREL]"),
                    out(reg) address,
                    options(pure, readonly, nostack, preserves_flags),
                )
            };
            address
        };
        #[cfg(target_arch = "aarch64")]
        let address = {
            let address: usize;
            // SAFETY: as for x86-64.
            unsafe {
                std::arch::asm!(
                    concat!(".weak ", $name),
                    concat!("adrp {0}, :got:", $name),
                    concat!("ldr {0}, [{0}, :got_lo12:", $name, "]"),
                    out(reg) address,
                    options(pure, readonly, nostack, preserves_flags),
                )
            };
            address
        };
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let address = 0;
        ptr::with_exposed_provenance::<()>(address)
    }};
}

/// Writes the profile of this process to its file, if the program has a profile.
pub(crate) fn write() {
    let write = weak_address!("__llvm_profile_write_file");
    if !write.is_null() {
        // SAFETY: LLVM's function has this signature.
        let write = unsafe { mem::transmute::<*const (), extern "C" fn() -> c_int>(write) };
        // The runtime reports a profile that it cannot write.
        write();
    }
}

/// Starts a new profile in a process that was just forked. The runtime has put the parent's id into
/// the file name, and the counters include the parent's run.
pub(crate) fn begin_in_child() {
    let set_name = weak_address!("__llvm_profile_set_filename");
    let reset = weak_address!("__llvm_profile_reset_counters");
    if set_name.is_null() || reset.is_null() {
        return;
    }
    // SAFETY: LLVM's function has this signature.
    let set_name = unsafe { mem::transmute::<*const (), extern "C" fn(*const c_char)>(set_name) };
    // The runtime does not evaluate a name again that is already set.
    set_name(c"".as_ptr());
    set_name(name().as_ptr());
    // SAFETY: as above.
    let reset = unsafe { mem::transmute::<*const (), extern "C" fn()>(reset) };
    reset();
}

/// Returns the pattern of the file name.
fn name() -> &'static CStr {
    // SAFETY: the process was just forked and has one thread, so no other thread changes the
    // environment.
    let name = unsafe { libc::getenv(c"LLVM_PROFILE_FILE".as_ptr()) }.cast_const();
    if name.is_null() {
        return DEFAULT_NAME;
    }
    // SAFETY: text that ends with a zero byte, and does not change while this process starts.
    unsafe { CStr::from_ptr(name) }
}
