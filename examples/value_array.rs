//! A number and an array in shared memory, changed by a child.

use procpool::{Array, Process, Result, Value};

#[expect(clippy::approx_constant, reason = "what the tutorial prints")]
fn change((number, array): (Value<f64>, Array<i32>)) -> Result<(), String> {
    let text = |it: procpool::Error| it.to_string();
    number.set(3.1415927).map_err(text)?;
    for item in array.lock().map_err(|it| it.to_string())?.iter_mut() {
        *item = -*item;
    }
    Ok(())
}

fn main() -> Result<()> {
    let number = Value::new(0.0)?;
    let array = Array::from_slice(&(0..10).collect::<Vec<i32>>())?;
    let process = Process::start(change, (number.clone(), array.clone()))?;
    if let Err(message) = process.result()? {
        println!("{message}");
    }
    println!("{}", number.get()?);
    println!("{:?}", array.to_vec()?);
    Ok(())
}
