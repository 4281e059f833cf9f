//! libFuzzer at the disposal of a test: it makes inputs, sees which code each reaches, and goes on
//! from those that reached something new. Meant for `mutate`, when that is built for `fuzz/run`.

// libFuzzer itself, which is linked for its own sake.
use libfuzzer_sys as _;

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};

type Parse<'a> = &'a mut dyn FnMut(&[u8]);

thread_local! {
    /// What is fed. libFuzzer runs it on the thread that called it.
    static PARSE: RefCell<Option<Parse<'static>>> = const { RefCell::new(None) };
}

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        argc: *mut c_int,
        argv: *mut *mut *mut c_char,
        callback: extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
}

/// Feeds `parse` with what libFuzzer makes, as its `arguments` say, the first of which is the
/// program's name. Ends the process, with 0 unless an input made `parse` panic or take too long.
pub fn run(arguments: &[String], parse: &mut dyn FnMut(&[u8])) -> ! {
    // SAFETY: this function does not return, so that what is borrowed outlives every use.
    let parse: Parse<'static> = unsafe { std::mem::transmute::<Parse<'_>, Parse<'static>>(parse) };
    PARSE.set(Some(parse));
    let arguments: Vec<CString> = arguments
        .iter()
        .filter_map(|argument| CString::new(argument.as_str()).ok())
        .collect();
    let mut pointers: Vec<*mut c_char> = arguments
        .iter()
        .map(|argument| argument.as_ptr().cast_mut())
        .collect();
    let mut count = pointers.len() as c_int;
    pointers.push(std::ptr::null_mut());
    let mut list = pointers.as_mut_ptr();
    // SAFETY: as many pointers to strings as it is told, then none, as `main` has them.
    let status = unsafe { LLVMFuzzerRunDriver(&mut count, &mut list, feed) };
    std::process::exit(status)
}

extern "C" fn feed(data: *const u8, length: usize) -> c_int {
    let input = if length == 0 {
        &[]
    } else {
        // SAFETY: libFuzzer gives so many bytes, for as long as this call takes.
        unsafe { std::slice::from_raw_parts(data, length) }
    };
    let parsed = std::panic::catch_unwind(|| {
        PARSE.with_borrow_mut(|parse| {
            if let Some(parse) = parse {
                parse(input);
            }
        });
    });
    if parsed.is_err() {
        // libFuzzer writes the input to a file when the process aborts.
        std::process::abort();
    }
    0
}

/// What libfuzzer-sys expects of its own macro's users.
#[unsafe(no_mangle)]
#[allow(
    improper_ctypes_definitions,
    reason = "libfuzzer-sys calls it from Rust"
)]
extern "C" fn rust_fuzzer_test_input(_input: &[u8]) -> i32 {
    0
}
