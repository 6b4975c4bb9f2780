//! The program that kills its own workers.

use super::{example, shown, start};

#[test]
fn chaos_finds_its_claims_to_hold() {
    let finished = start(example("chaos").args(["--seconds", "2"])).finish();
    let printed = shown(&finished.stdout);
    let claims = [
        "each task ended once",
        "each ended with its result or WorkerDied",
        "none started more often than it may",
        "memory, threads, descriptors and processes are flat",
    ];
    // How fast it is then, is nothing that holds on every machine; so the program's own verdict
    // does not count.
    for claim in claims {
        let line = format!("ok   {claim}\n");
        assert!(printed.contains(&line), "{printed}{}", finished.stderr);
    }
    assert_eq!(finished.stderr, "");
    assert!(!printed.contains("killed: 0 workers"), "{printed}");
}
