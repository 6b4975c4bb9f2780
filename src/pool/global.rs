//! The executor that all of a process shares.

use crate::error::Result;
use crate::pool::{
    ProcessPoolExecutor, builder,
    pool::{Pool, PoolSettings},
};
use crate::process::per_process::PerProcess;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};

/// How long its idle workers stay, unless the builder says otherwise; as loky's.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The one that was asked for last.
static CURRENT: PerProcess<Mutex<Option<Arc<ProcessPoolExecutor>>>> = PerProcess::new();

fn fits(pool: &ProcessPoolExecutor, settings: &PoolSettings) -> bool {
    let Pool { settings: own, .. } = &*pool.pool;
    // It may have been resized.
    own == settings && pool.workers() == settings.workers && pool.pool.closed_error().is_none()
}

/// The executor that is there, or else a new one.
pub(super) fn get(settings: PoolSettings) -> Result<Arc<ProcessPoolExecutor>> {
    let mut current = CURRENT.get().lock();
    if let Some(pool) = current.as_ref().filter(|it| fits(it, &settings)) {
        return Ok(Arc::clone(pool));
    }
    let pool = Arc::new(builder::start(settings)?);
    let replaced = current.replace(Arc::clone(&pool));
    drop(current);
    // Finishes what was submitted, if nobody else holds it: no reason for others to wait.
    drop(replaced);
    Ok(pool)
}
