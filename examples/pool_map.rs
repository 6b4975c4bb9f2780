//! `map` on a pool of five that lives for one scope.

use procpool::ProcessPoolExecutor;

fn square(x: i32) -> i32 {
    x * x
}

fn main() -> procpool::Result<()> {
    let squares = {
        let pool = ProcessPoolExecutor::builder().workers(5).build()?;
        pool.map(square, [1, 2, 3])?
    }; // the workers end with the pool
    println!("{squares:?}");
    Ok(())
}
