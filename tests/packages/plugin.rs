//! A shared object with procpool inside, for programs that know nothing of it.

use procpool::{ErrorKind, ProcessPoolExecutor};

fn square(x: u64) -> u64 {
    x * x
}

/// 0 if no pool can be built, and the error says what to do.
#[unsafe(no_mangle)]
pub extern "C" fn fail_to_build_a_pool() -> i32 {
    match ProcessPoolExecutor::builder().workers(2).build() {
        Ok(_) => 1,
        Err(error) if error.kind() != ErrorKind::StartFailed => 2,
        Err(error) if !error.to_string().contains("procpool::init()") => 3,
        Err(_) => 0,
    }
}

/// What a program must call first.
#[unsafe(no_mangle)]
pub extern "C" fn init() -> i32 {
    procpool::init();
    0
}

/// 0 if a pool works.
#[unsafe(no_mangle)]
pub extern "C" fn use_a_pool() -> i32 {
    let used = || -> procpool::Result<bool> {
        let pool = ProcessPoolExecutor::builder().workers(2).build()?;
        let squares = pool.map(square, 0..100)?;
        let died = pool.apply(|()| -> () { std::process::exit(42) }, ());
        let again = pool.apply(|x: u64| x + 1, 2)?;
        let code = died.err().and_then(|it| it.worker()?.exit_code);
        Ok(squares.len() == 100 && code == Some(42) && again == 3)
    };
    match used() {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(error) => {
            eprintln!("{error}");
            2
        }
    }
}
