//! A type of the program as a shared object: four processes transfer money between accounts, and
//! the sum stays the same.

use procpool::{Manager, Process, Proxy, Result};
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Bank {
    balances: [i64; 4],
    refused: u32,
}

impl Bank {
    /// Runs in the server, one transfer at a time.
    fn transfer(
        &mut self,
        (from, to, amount): (usize, usize, i64),
    ) -> std::result::Result<(), String> {
        if self.balances[from] < amount {
            self.refused += 1;
            return Err(format!("account {from} has only {}", self.balances[from]));
        }
        self.balances[from] -= amount;
        self.balances[to] += amount;
        Ok(())
    }
}

fn trade((bank, own): (Proxy<Bank>, usize)) -> Option<()> {
    for round in 1..=50 {
        // A refused transfer is a value, not an error of the call.
        let _ = bank
            .call(Bank::transfer, (own, (own + round) % 4, 30))
            .ok()?;
    }
    Some(())
}

fn main() -> Result<()> {
    let manager = Manager::start()?;
    let bank = manager.object(Bank {
        balances: [100; 4],
        refused: 0,
    })?;
    let traders: Vec<_> = (0..4)
        .map(|own| Process::start(trade, (bank.clone(), own)))
        .collect::<Result<_>>()?;
    for trader in traders {
        assert!(trader.result()?.is_some());
    }
    let refused = bank.call(Bank::transfer, (0, 1, 1_000))?.is_err();
    println!("too large a transfer is refused: {refused}");
    println!("{} in all", bank.get()?.balances.iter().sum::<i64>());
    Ok(())
}
