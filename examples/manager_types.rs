//! All that a manager creates except dicts and lists, each shared by two processes.

use procpool::{
    ArrayProxy, BarrierProxy, BoundedSemaphoreProxy, ConditionProxy, EventProxy, LockProxy,
    Manager, Namespace, Process, QueueProxy, RLockProxy, Result, SemaphoreProxy, ValueProxy,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Shared {
    namespace: Namespace,
    locks: (LockProxy, RLockProxy),
    semaphores: (SemaphoreProxy, BoundedSemaphoreProxy),
    condition: ConditionProxy,
    event: EventProxy,
    barrier: BarrierProxy,
    queue: QueueProxy<String>,
    value: ValueProxy<f32>,
    array: ArrayProxy<i64>,
}

impl Shared {
    fn new(manager: &Manager) -> Result<Self> {
        Ok(Self {
            namespace: manager.namespace()?,
            locks: (manager.lock()?, manager.rlock()?),
            semaphores: (manager.semaphore(1)?, manager.bounded_semaphore(1)?),
            condition: manager.condition()?,
            event: manager.event()?,
            barrier: manager.barrier(2)?,
            queue: manager.queue(1)?,
            value: manager.value(0.0)?,
            array: manager.array((0..10).collect())?,
        })
    }

    fn change(&self) -> Result<()> {
        self.event.wait()?;
        self.semaphores.0.acquire()?;
        self.semaphores.1.acquire()?;
        {
            let _lock = self.locks.0.acquire()?;
            let (_outer, _inner) = (self.locks.1.acquire()?, self.locks.1.acquire()?);
            self.namespace.set("name", "zhangkai".to_owned())?;
            self.array.set(9, -9)?;
        }
        self.semaphores.1.release()?;
        self.semaphores.0.release()?;
        self.queue.put(&"an item".to_owned())?;
        let _held = self.condition.lock()?;
        self.value.set(std::f32::consts::PI)?;
        self.condition.notify_one()
    }
}

fn run(shared: Shared) {
    shared.change().expect("the manager's server lives");
    shared.barrier.wait().expect("the other party lives");
}

fn main() -> Result<()> {
    let manager = Manager::start()?;
    let shared = Shared::new(&manager)?;
    let process = Process::start(run, shared.clone())?;
    shared.event.set()?;
    println!("queue: {}", shared.queue.get()?);
    shared
        .condition
        .lock()?
        .wait_while(|| shared.value.get().is_ok_and(|it| it == 0.0))?;
    println!("value: {}", shared.value.get()?);
    shared.barrier.wait()?;
    process.join()?;
    println!("namespace: {:?}", shared.namespace.get::<String>("name")?);
    println!("array: {:?}", shared.array.to_vec()?);
    println!(
        "semaphores: {} {}",
        shared.semaphores.0.value()?,
        shared.semaphores.1.value()?
    );
    println!(
        "locks: {}",
        shared.locks.0.try_acquire().is_ok() && shared.locks.1.try_acquire().is_ok()
    );
    Ok(())
}
