//! The report, and the claims.

use crate::killing::Chaos;
use crate::looking::Holdings;
use crate::tally::Tally;
use crate::working::Spell;

pub(crate) fn print_report(
    chaos: &Chaos,
    calm: &Spell,
    storm: &Spell,
    [before, after]: [&Holdings; 2],
) {
    for (name, spell) in [("undisturbed", calm), ("disturbed", storm)] {
        let (tasks, seconds) = (spell.tasks, spell.lasted.as_secs_f64());
        println!(
            "{name}: {tasks} tasks in {seconds:.1} s, {:.0} a second",
            spell.rate()
        );
    }
    let rate = chaos.workers as f64 / chaos.lasted.as_secs_f64();
    println!(
        "killed: {} workers ({rate:.1} a second), {} fork servers",
        chaos.workers, chaos.servers
    );
    println!(
        "\n{:<12} {:>10} {:>10}",
        "disturbed", "result", "WorkerDied"
    );
    for (kind, [results, deaths]) in &storm.tally.ended {
        println!("{:<12} {results:>10} {deaths:>10}", format!("{kind:?}"));
    }
    println!("tried again: {}", storm.tally.tried_again);
    println!("\nheld before: {before:?}");
    println!("held after:  {after:?}\n");
}

pub(crate) fn print_claims(calm: &Spell, storm: &Spell, [before, after]: [&Holdings; 2]) -> bool {
    let (ratio, spells) = (storm.rate() / calm.rate(), [calm, storm]);
    let faults = |of: fn(&Tally) -> &Vec<String>| {
        let found: Vec<_> = spells.iter().flat_map(|it| of(&it.tally)).collect();
        found.iter().take(10).for_each(|it| println!("{it}"));
        found.is_empty()
    };
    let claims = [
        (faults(|it| &it.not_once), "each task ended once".into()),
        (
            faults(|it| &it.wrong),
            "each ended with its result or WorkerDied".into(),
        ),
        (
            faults(|it| &it.too_often),
            "none started more often than it may".into(),
        ),
        (
            after.are_flat(before),
            "memory, threads, descriptors and processes are flat".into(),
        ),
        (
            ratio >= 0.5,
            format!("throughput is {ratio:.2} of undisturbed, at least 0.5"),
        ),
    ];
    for (holds, claim) in &claims {
        println!("{} {claim}", if *holds { "ok  " } else { "FAIL" });
    }
    claims.iter().all(|it| it.0)
}
