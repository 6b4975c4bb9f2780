//! A manager's dict from one process and from two, against a bare connection over a Unix socket.

use std::mem;
use std::path::PathBuf;
use std::time::Duration;

use procpool::{Connection, DictProxy, Listener, Manager, Process, Proxy, connect};

use crate::Result;
use crate::machine::{Pinned, two_cores};
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::{median_call, timed};

pub(crate) const GET: [&str; 1] = ["manager: dict get"];
pub(crate) const SET: [&str; 1] = ["manager: dict set"];
pub(crate) const CLIENTS: [&str; 1] = ["manager: two clients, a core each"];

/// Of what a bare connection takes.
const BAR: Bar = Bar::RatioAtMost(1.3);

/// Two clients have done as much as one in at most this part of the time.
const TOGETHER: Bar = Bar::RatioAtMost(0.67);

const ROUNDS: usize = 11;
const BUDGET: Duration = Duration::from_millis(400);

type Dict = DictProxy<u64, u64>;

pub(crate) fn get(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    compare(plan, report, GET[0], |dict| Ok(dict.get(&7)?))
}

pub(crate) fn set(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    compare(plan, report, SET[0], |dict| Ok(dict.insert(7, 8)?))
}

fn compare(
    plan: &Plan,
    report: &mut Report<'_>,
    name: &str,
    call: fn(&Dict) -> Result<Option<u64>>,
) -> Result<()> {
    let calls = plan.size(3000, 50);
    let manager = Manager::start()?;
    let dict = manager.dict()?;
    let (process, connection) = echo()?;
    let mut ours = || median_call(calls, BUDGET, || call(&dict).map(|_| ()));
    let mut theirs = || {
        median_call(calls, BUDGET, || {
            connection.send(&7)?;
            connection.recv()?;
            Ok(())
        })
    };
    let [ours, theirs] = plan.interleave(ROUNDS, [&mut ours, &mut theirs])?;
    report.row(&Row {
        name,
        unit: Unit::Seconds,
        ours: &ours,
        theirs: Some(("bare connection", &theirs)),
        bar: BAR,
    });
    drop(connection);
    process.join()?;
    Ok(())
}

/// A process that sends back what it gets, over a Unix socket.
fn echo() -> Result<(Process<()>, Connection<u64, u64>)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    let listener = Listener::bind(&*path, None)?;
    let process = Process::start(send_back, path)?;
    Ok((process, listener.accept()?))
}

fn send_back(path: PathBuf) {
    let connection = connect::<u64, u64>(path, None).expect("a listener");
    while let Ok(number) = connection.recv() {
        connection.send(&number).expect("a peer");
    }
}

pub(crate) fn clients(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let calls = plan.size(40_000, 50);
    let manager = Manager::start()?;
    let dict: Dict = manager.dict()?;
    let pin: Proxy<()> = manager.object(())?;
    let (first, second) = two_cores()?;
    let mut together = || Ok(timed(|| share(&dict, &pin, &[first, second], calls / 2))?.0);
    let mut alone = || Ok(timed(|| share(&dict, &pin, &[first], calls))?.0);
    let [together, alone] = plan.interleave(ROUNDS, [&mut together, &mut alone])?;
    report.row(&Row {
        name: CLIENTS[0],
        unit: Unit::Seconds,
        ours: &together,
        theirs: Some(("one client", &alone)),
        bar: TOGETHER,
    });
    Ok(())
}

/// A client on each of the cores, together with its thread of the server: so a single one leaves
/// the other cores free.
fn share(dict: &Dict, pin: &Proxy<()>, cores: &[usize], calls: usize) -> Result<()> {
    let start = |core: &usize| Process::start(call, (dict.clone(), pin.clone(), *core, calls));
    let clients: procpool::Result<Vec<_>> = cores.iter().map(start).collect();
    clients?.into_iter().try_for_each(Process::result)?;
    Ok(())
}

/// In a client, which has one connection.
fn call((dict, pin, core, calls): (Dict, Proxy<()>, usize, usize)) {
    let _pinned = Pinned::to(core).expect("a core of its parent's");
    pin.call(pin_this_thread, core).expect("a server");
    for _ in 0..calls {
        dict.get(&7).expect("a server");
    }
}

/// In the server: its thread for the calling client stays on this core.
fn pin_this_thread(_object: &mut (), core: usize) {
    mem::forget(Pinned::to(core).expect("a core of the client's"));
}
