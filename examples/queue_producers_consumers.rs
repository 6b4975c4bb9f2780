//! Two producers and two consumers on a queue of three items. A marker for each consumer ends it.

use procpool::{Process, Queue, Result};

/// `None` is the marker.
type Items = Queue<Option<String>>;

fn produce((queue, name): (Items, u32)) {
    for n in 0..5 {
        let item = format!("item {n} of producer {name}");
        println!("produced {item}");
        queue.put(&Some(item)).expect("it is open");
    }
}

fn consume((queue, name): (Items, u32)) {
    while let Some(item) = queue.get().expect("it is open") {
        println!("consumer {name} consumed {item}");
    }
}

fn main() -> Result<()> {
    let queue = Items::bounded(3)?;
    let start = |f, names: [u32; 2]| names.map(|name| Process::start(f, (queue.clone(), name)));
    let producers = start(produce, [1, 2]);
    let consumers = start(consume, [1, 2]);
    for producer in producers {
        producer?.join()?;
    }
    for _ in &consumers {
        queue.put(&None)?;
    }
    for consumer in consumers {
        consumer?.join()?;
    }
    println!("All processes completed");
    Ok(())
}
