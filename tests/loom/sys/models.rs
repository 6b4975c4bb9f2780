//! Models of the lock that its owner takes without a barrier.

use super::{
    atomic::{Weakening, weaken},
    biased::{Owner, VisitResult},
};
use crate::{check, shm::Byte};
use loom::thread;

/// The owner and a visitor use the value twice each.
fn use_a_value(owning: Weakening, visiting: Weakening) {
    let mut owner = Owner::new(Byte::new());
    let visitor = owner.visitor();
    let visits = thread::spawn(move || {
        weaken(visiting);
        let visit = || visitor.visit(|it| it.write(it.read() + 1));
        [visit(), visit()]
            .iter()
            .filter(|it| **it == VisitResult::Done(()))
            .count()
    });
    weaken(owning);
    for _ in 0..2 {
        let value = owner.lock();
        value.write(value.read() + 1);
    }
    let visits = visits.join().expect("no panic");
    assert_eq!(usize::from(owner.lock().read()), 2 + visits);
}

#[test]
fn owner_and_visitor_never_use_a_value_at_once() {
    check(3, || use_a_value(Weakening::None, Weakening::None));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_a_barrier_in_the_owner_both_use_a_value() {
    check(3, || use_a_value(Weakening::NoFences, Weakening::None));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_a_barrier_in_the_visitor_both_use_a_value() {
    check(3, || use_a_value(Weakening::None, Weakening::NoFences));
}
