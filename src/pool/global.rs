//! The executor that the whole process shares.

use crate::error::Result;
use crate::pool::{
    ProcessPoolExecutor, builder,
    pool::{Pool, PoolSettings},
};
use crate::process::per_process::PerProcess;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};

/// How long its idle workers live, unless the builder sets it; the value of Python's loky.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The executor that was requested last.
static CURRENT: PerProcess<Mutex<Option<Arc<ProcessPoolExecutor>>>> = PerProcess::new();

fn fits(pool: &ProcessPoolExecutor, settings: &PoolSettings) -> bool {
    let Pool { settings: own, .. } = &*pool.pool;
    // Not `own.workers`, because the pool may have been resized.
    own == settings && pool.workers() == settings.workers && pool.pool.closed_error().is_none()
}

/// Returns the current executor if it has these settings and accepts tasks; otherwise builds
/// another.
pub(super) fn get(settings: PoolSettings) -> Result<Arc<ProcessPoolExecutor>> {
    let mut current = CURRENT.get().lock();
    if let Some(pool) = current.as_ref().filter(|pool| fits(pool, &settings)) {
        return Ok(Arc::clone(pool));
    }
    let pool = Arc::new(builder::start(settings)?);
    let replaced = current.replace(Arc::clone(&pool));
    drop(current);
    // Outside of the lock: dropping the last reference waits for the submitted tasks.
    drop(replaced);
    Ok(pool)
}
