use procpool::*;
#[test]
fn smoke() -> Result<()> {
    let pool = ProcessPoolExecutor::builder().workers(2).build()?;
    assert_eq!(pool.apply(|x: u64| x * x, 7)?, 49);
    assert_eq!(pool.map(|x: u64| x * x, 0..1000)?.len(), 1000);
    println!("{:?}", pool.worker_pids());
    println!("{:?}", pool.apply(|x: u64| -> () { panic!("hu {x}") }, 7));
    println!(
        "{:?}",
        pool.apply(|_: u64| -> () { std::process::abort() }, 7)
    );
    println!(
        "{:?}",
        pool.apply(|_: u64| -> () { std::process::exit(0) }, 7)
    );
    assert_eq!(pool.apply(|x: Vec<u8>| x.len(), vec![1; 1 << 26])?, 1 << 26);
    assert_eq!(pool.apply(|x: Vec<u8>| x, vec![1; 1 << 26])?.len(), 1 << 26);
    println!("{:?}", pool.worker_pids());
    Ok(())
}
