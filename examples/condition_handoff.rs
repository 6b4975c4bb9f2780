//! Two processes take turns: each waits for its turn, prints, and hands over.

use procpool::{Atomic, Condition, Process, Result};
use std::sync::atomic::Ordering::Relaxed;

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Table {
    condition: Condition,
    turn: Atomic<u32>,
}

fn play((table, own): (Table, u32)) -> Result<(), String> {
    for _ in 0..3 {
        let mut held = table.condition.lock().map_err(|it| it.to_string())?;
        let waited = held.wait_while(|| table.turn.load(Relaxed) % 2 != own);
        waited.map_err(|it| it.to_string())?;
        println!(
            "turn {}: {}",
            table.turn.load(Relaxed),
            ["ping", "pong"][own as usize]
        );
        table.turn.fetch_add(1, Relaxed);
        table.condition.notify_all();
    }
    Ok(())
}

fn main() -> Result<()> {
    let table = Table {
        condition: Condition::new()?,
        turn: Atomic::new(0)?,
    };
    let players = [0, 1].map(|own| Process::start(play, (table.clone(), own)));
    for player in players {
        if let Err(message) = player?.result()? {
            println!("{message}");
        }
    }
    Ok(())
}
