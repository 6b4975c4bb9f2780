//! A program that knows nothing of procpool: loads a shared object and calls functions in it, in
//! the order of its arguments.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

#[link(name = "dl")]
unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(object: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *mut c_char;
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = CString::new(arguments.next().expect("a path")).expect("a path");
    // SAFETY: a path that ends in zero; RTLD_NOW | RTLD_LOCAL.
    let object = unsafe { dlopen(path.as_ptr(), 2) };
    if object.is_null() {
        // SAFETY: dlopen has just failed.
        panic!("{:?}", unsafe { CStr::from_ptr(dlerror()) });
    }
    for name in arguments {
        let symbol = CString::new(name.clone()).expect("a name");
        // SAFETY: an object that is open.
        let function = unsafe { dlsym(object, symbol.as_ptr()) };
        assert!(!function.is_null(), "{name}");
        // SAFETY: every function of the plug-in that is named has this type.
        let function: extern "C" fn() -> c_int = unsafe { std::mem::transmute(function) };
        let code = function();
        if code != 0 {
            eprintln!("{name} says {code}");
            std::process::exit(code);
        }
    }
}
