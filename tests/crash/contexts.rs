//! Contexts of `map_with` that fail, panic or kill: what that costs the map, and that it costs no
//! other.

use common::{failure, in_time, pool_of, square};
use procpool::{ErrorKind, ProcessPoolExecutor, Result, current_worker};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::process::abort;

/// What a context does in the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Act {
    FailDecode,
    PanicAtDecode,
    DieAtDecode,
    PanicAtDrop,
    DieAtDrop,
}

struct Context(Act);

impl Serialize for Context {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Context {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        match Act::deserialize(from)? {
            Act::FailDecode => Err(D::Error::custom("not my type")),
            Act::PanicAtDecode => panic!("in the context"),
            Act::DieAtDecode => abort(),
            act => Ok(Self(act)),
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if current_worker().is_some() {
            match self.0 {
                Act::PanicAtDrop => panic!("in the context's drop"),
                Act::DieAtDrop => abort(),
                _ => {}
            }
        }
    }
}

fn map_with(pool: &ProcessPoolExecutor, act: Act) -> Result<Vec<u32>> {
    pool.map_with(Context(act), |_, x: u32| x, 0..100)
}

#[test]
fn a_context_that_cannot_be_decoded_fails_its_map_alone() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let workers = pool.worker_pids();
        let error = failure(map_with(&pool, Act::FailDecode));
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(error.to_string().contains("not my type"), "{error}");
        assert_eq!(pool.map(square, 0..100)?.len(), 100);
        assert_eq!(pool.worker_pids(), workers);
        Ok(())
    })
}

#[test]
fn a_context_that_panics_while_it_is_decoded_fails_its_map_alone() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let workers = pool.worker_pids();
        let error = failure(map_with(&pool, Act::PanicAtDecode));
        let panic = error.remote_panic().expect("a panic");
        assert_eq!(panic.message, "in the context");
        assert_eq!(pool.map(square, 0..100)?.len(), 100);
        assert_eq!(pool.worker_pids(), workers);
        Ok(())
    })
}

// Nothing of the map has started when its context is decoded. Taken back and sent to the next
// worker, it would kill one after the other forever.
#[test]
fn a_context_that_kills_whoever_decodes_it_fails_its_map_alone() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        assert_eq!(pool.map(square, 0..100)?.len(), 100);
        let error = failure(map_with(&pool, Act::DieAtDecode));
        assert_eq!(error.kind(), ErrorKind::WorkerDied);
        assert_eq!(pool.map(square, 0..100)?.len(), 100);
        Ok(())
    })
}

#[test]
fn a_context_that_panics_when_it_is_dropped_is_gone_all_the_same() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let workers = pool.worker_pids();
        assert_eq!(map_with(&pool, Act::PanicAtDrop)?.len(), 100);
        assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        assert_eq!(pool.worker_pids(), workers);
        Ok(())
    })
}

#[test]
fn a_context_that_kills_its_worker_when_it_is_dropped_is_no_other_tasks_business() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for _ in 0..10 {
            assert_eq!(map_with(&pool, Act::DieAtDrop)?.len(), 100);
            assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        }
        Ok(())
    })
}
