//! This program again as a helper process: what each mode does, and the handle that its owner
//! holds.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{self, Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use crate::Result;
use crate::machine::Pinned;
use crate::rows::{outstanding, start, supervision};
use crate::work::spin;

/// First argument of a helper process.
const MARK: &str = "--helper-process";

/// Writes one byte and ends: the least that a re-execution can do.
pub(crate) const FIRST_BYTE: &str = "first-byte";
/// Pins itself to the given core and sends every byte back.
pub(crate) const ECHO: &str = "echo";
/// Sends every byte back, on any core.
pub(crate) const BLOCKING_ECHO: &str = "blocking-echo";
/// Forks for every byte; each child writes one and ends.
pub(crate) const ZYGOTE: &str = "zygote";
/// Writes one byte, then keeps a core busy until it is killed.
pub(crate) const SPIN: &str = "spin";
/// Prints what the first pool of a program costs, after touching the given MiB.
pub(crate) const COLD_START: &str = "cold-start";
/// Prints what re-executing itself costs, after touching the given MiB.
pub(crate) const RE_EXECUTION: &str = "re-execution";

/// Prints what the given number of outstanding futures cost.
pub(crate) const OUTSTANDING: &str = "outstanding";

/// Keeps a pool with busy workers until they are killed. Writes one byte when they are busy.
pub(crate) const BUSY_POOL: &str = "busy-pool";

/// Does not return in a helper process. Stands first in `main`, as the re-execution to the first
/// byte is timed.
pub(crate) fn run_if_asked() {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() != Some(MARK) {
        return;
    }
    let mode = arguments.next().unwrap_or_default();
    let number = arguments
        .next()
        .and_then(|it| it.parse().ok())
        .unwrap_or_default();
    let outcome = match mode.as_str() {
        FIRST_BYTE => write_byte(),
        ECHO => pinned_echo(number),
        BLOCKING_ECHO => echo(),
        ZYGOTE => fork_for_every_byte(),
        SPIN => spin_until_killed(),
        COLD_START => start::print_cold_start(number),
        RE_EXECUTION => start::print_re_execution(number),
        OUTSTANDING => outstanding::print_costs(number),
        BUSY_POOL => supervision::keep_pool_busy(),
        _ => Err(format!("unknown mode {mode}").into()),
    };
    if let Err(error) = outcome {
        eprintln!("helper process {mode}: {error}");
        process::exit(1);
    }
    process::exit(0);
}

/// A helper process on a pair of pipes; killed when dropped.
#[derive(Debug)]
pub(crate) struct Helper {
    process: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Helper {
    pub(crate) fn start(mode: &str, number: usize) -> Result<Self> {
        let mut command = command(mode, number);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().ok_or("stdin is piped")?;
        let output = process.stdout.take().ok_or("stdout is piped")?;
        Ok(Self {
            process,
            input,
            output,
        })
    }

    /// Starts one that keeps a core busy, and returns once it does.
    pub(crate) fn spinning() -> Result<Self> {
        let mut helper = Self::start(SPIN, 0)?;
        helper.read_byte()?;
        Ok(helper)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn read_byte(&mut self) -> Result<()> {
        Ok(self.output.read_exact(&mut [0])?)
    }

    pub(crate) fn ping(&mut self) -> Result<()> {
        self.input.write_all(&[1])?;
        self.read_byte()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Both fail only when it is gone already, which is what we want.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn command(mode: &str, number: usize) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args([MARK, mode, &number.to_string()]);
    command
}

/// What a helper process prints; its complaints go to our standard error.
pub(crate) fn output(mode: &str, number: usize) -> Result<String> {
    let output = command(mode, number).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("helper process {mode}: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn write_byte() -> Result<()> {
    let mut output = io::stdout();
    output.write_all(&[1])?;
    Ok(output.flush()?)
}

fn pinned_echo(core: usize) -> Result<()> {
    let _pinned = Pinned::to(core)?;
    echo()
}

/// On the bare descriptors: `Stdin` and `Stdout` buffer.
fn echo() -> Result<()> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut byte = [0];
    while input.read(&mut byte)? == 1 {
        output.write_all(&byte)?;
    }
    Ok(())
}

/// With one thread. A child is reaped after its byte.
#[expect(unsafe_code, reason = "fork")]
fn fork_for_every_byte() -> Result<()> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    while input.read(&mut [0])? == 1 {
        // SAFETY: this process has one thread, and the child only writes a byte and ends.
        match unsafe { fork() }? {
            ForkResult::Child => {
                let written = output.write_all(&[1]);
                // SAFETY: _exit runs no code of this process.
                unsafe { libc::_exit(written.is_err().into()) }
            }
            ForkResult::Parent { child } => waitpid(child, None)?,
        };
    }
    Ok(())
}

fn spin_until_killed() -> Result<()> {
    tell_owner()?;
    loop {
        spin(1_000_000);
    }
}

/// From now on this process ends with the measuring one, however that ends: if it is gone already,
/// the byte finds no reader.
pub(crate) fn tell_owner() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    write_byte()
}
