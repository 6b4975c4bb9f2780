//! A queue between processes: one process writes and one reads until the queue is closed. Then ten
//! write and the parent reads.

use procpool::{Process, Queue, Result};

fn write(queue: Queue<String>) {
    for value in ["A", "B", "C"] {
        println!("Put {value} to queue...");
        queue.put(&value.to_owned()).expect("it is open");
    }
}

fn read(queue: Queue<String>) {
    // Ends when the queue is closed and empty.
    while let Ok(value) = queue.get() {
        println!("Get {value} from queue.");
    }
}

fn main() -> Result<()> {
    let queue = Queue::unbounded()?;
    let reader = Process::start(read, queue.clone())?;
    Process::start(write, queue.clone())?.join()?;
    queue.close();
    reader.join()?;

    let numbers = Queue::unbounded()?;
    let put = |(queue, n): (Queue<u32>, u32)| queue.put(&n).is_ok();
    let writers = (0..10).map(|n| Process::start(put, (numbers.clone(), n)));
    let writers: Vec<_> = writers.collect::<Result<_>>()?;
    let mut received: Vec<u32> = (0..10).map(|_| numbers.get()).collect::<Result<_>>()?;
    received.sort_unstable();
    println!("{} writers sent {received:?}", writers.len());
    Ok(())
}
