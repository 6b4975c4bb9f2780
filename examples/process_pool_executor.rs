//! Ten calls on five workers: each `submit` returns a future, and `result` waits for it.

use procpool::{ProcessPoolExecutor, TaskFuture};

fn cube(x: u64) -> u64 {
    x * x * x
}

fn main() -> procpool::Result<()> {
    let executor = ProcessPoolExecutor::builder().workers(5).build()?;
    let futures: Vec<TaskFuture<u64>> = (0..10).map(|x| executor.submit(cube, x)).collect();
    for (x, future) in futures.into_iter().enumerate() {
        println!("{x} cubed is {}", future.result()?);
    }
    Ok(())
}
