//! A library whose every kind of target uses a pool.

/// Uses a pool.
///
/// ```
/// everywhere::use_a_pool();
/// let pool = procpool::ProcessPoolExecutor::builder().workers(1).build()?;
/// assert_eq!(pool.map(|x| x + 1, 0..3)?, [1, 2, 3]);
/// # Ok::<(), procpool::Error>(())
/// ```
pub fn use_a_pool() {
    let pool = procpool::ProcessPoolExecutor::builder().workers(2).build();
    let pool = pool.expect("a pool");
    let squares = pool.map(|x: u64| x * x, 0..100);
    assert_eq!(squares.expect("a pool that works").len(), 100);
    let died = pool.apply(|()| -> () { std::process::abort() }, ());
    assert_eq!(
        died.expect_err("a death").kind(),
        procpool::ErrorKind::WorkerDied
    );
    assert_eq!(pool.apply(|x: u64| x + 1, 2).expect("a pool that works"), 3);
}

#[cfg(test)]
mod tests {
    #[test]
    fn used_in_a_unit_test() {
        super::use_a_pool();
    }
}
