//! The profile of a program that was built with `-C instrument-coverage`: written where no exit
//! handler runs.
//!
//! LLVM's runtime is part of such a program and of no other, so its functions are named weakly:
//! their addresses are 0 where they are not linked in. They are hidden symbols, which `dlsym` does
//! not find.

use std::{
    ffi::{CStr, c_char, c_int},
    mem, ptr,
};

/// The pattern that rustc compiles in, for a program whose environment names none.
const DEFAULT_NAME: &CStr = c"default_%m_%p.profraw";

/// Loads the address of a symbol that may not exist: 0 then, and on architectures for which this is
/// not written.
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

/// Writes the profile of this process to its file, if the program has one.
pub(crate) fn write() {
    let write = weak_address!("__llvm_profile_write_file");
    if !write.is_null() {
        // SAFETY: the symbol is LLVM's, whose function has this signature.
        let write = unsafe { mem::transmute::<*const (), extern "C" fn() -> c_int>(write) };
        // A profile that cannot be written is reported by the runtime.
        write();
    }
}

/// Begins a profile of its own in a process that was just forked. The runtime has put its parent's
/// id into the name of the file, and what the parent has run is in that one's.
pub(crate) fn begin_in_child() {
    let set_name = weak_address!("__llvm_profile_set_filename");
    let reset = weak_address!("__llvm_profile_reset_counters");
    if set_name.is_null() || reset.is_null() {
        return;
    }
    // SAFETY: the symbol is LLVM's, whose function has this signature.
    let set_name = unsafe { mem::transmute::<*const (), extern "C" fn(*const c_char)>(set_name) };
    // The runtime does not look again at a name that it has already.
    set_name(c"".as_ptr());
    set_name(name().as_ptr());
    // SAFETY: as above.
    let reset = unsafe { mem::transmute::<*const (), extern "C" fn()>(reset) };
    reset();
}

/// Returns the pattern of the file's name.
fn name() -> &'static CStr {
    // SAFETY: the process was just forked by a thread that is alone in it, so nobody changes the
    // environment.
    let name = unsafe { libc::getenv(c"LLVM_PROFILE_FILE".as_ptr()) }.cast_const();
    if name.is_null() {
        return DEFAULT_NAME;
    }
    // SAFETY: text that ends with a zero byte, and stays as it is while this process begins.
    unsafe { CStr::from_ptr(name) }
}
