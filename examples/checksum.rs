//! A batch job: prints the SHA-256 of every file below directories, like `sha256sum`, and goes on
//! after a file that fails.

use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufReader, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use procpool::ProcessPoolExecutor;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

/// Bytes read at a time: a file need not fit into memory.
const BLOCK: usize = 64 * 1024;

/// The result for one file.
#[derive(Serialize, Deserialize)]
struct Checksum {
    digest: String,
    bytes: u64,
}

fn main() -> ExitCode {
    let roots: Vec<OsString> = env::args_os().skip(1).collect();
    if roots.is_empty() {
        say("usage: checksum DIRECTORY_OR_FILE...");
        return ExitCode::from(2);
    }
    match run(&roots) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_unreadable) => ExitCode::FAILURE,
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("checksum: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints the checksum of every file and returns how many could not be read.
fn run(roots: &[OsString]) -> Result<u64, Box<dyn Error>> {
    let started = Instant::now();
    let mut report = Report::new()?;
    let paths = find_files(roots, &mut report);
    let pool = ProcessPoolExecutor::new()?;
    let printed = print_checksums(&pool, &paths, &mut report);
    report.bar.finish_and_clear();
    if printed.is_err() {
        // The reader is gone: do not wait for a large file.
        pool.terminate();
    }
    printed?;
    report.summary(started.elapsed(), pool.workers());
    Ok(report.unreadable)
}

/// Names the regular files below `roots` in the byte order of their paths.
fn find_files(roots: &[OsString], report: &mut Report) -> Vec<OsString> {
    let mut paths = Vec::new();
    for root in roots {
        match fs::metadata(root) {
            Ok(found) if found.is_dir() => walk(root, &mut paths, report),
            Ok(found) if found.is_file() => paths.push(root.clone()),
            Ok(_) => report.unreadable(root, &"not a regular file"),
            Err(error) => report.unreadable(root, &error),
        }
    }
    paths.sort_unstable();
    paths
}

fn walk(root: &OsStr, paths: &mut Vec<OsString>, report: &mut Report) {
    for entry in WalkDir::new(root) {
        match entry {
            Ok(entry) if entry.file_type().is_file() => paths.push(entry.into_path().into()),
            Ok(_) => {} // a directory, a link, or nothing with an end to read to
            Err(error) => {
                let path = error.path().map_or(root, |path| path.as_os_str());
                match error.io_error() {
                    Some(cause) => report.unreadable(path, cause),
                    None => report.unreadable(path, &error),
                }
            }
        }
    }
}

/// Hashes files on the pool, reading a window of files ahead, and prints in the order of `paths`.
fn print_checksums(
    pool: &ProcessPoolExecutor,
    paths: &[OsString],
    report: &mut Report,
) -> io::Result<()> {
    report.bar.set_length(paths.len() as u64);
    let outcomes = pool.imap(checksum, paths.iter().cloned());
    for (path, outcome) in paths.iter().zip(outcomes) {
        match outcome {
            Ok(Ok(checksum)) => report.checksum(path, &checksum)?,
            Ok(Err(unreadable)) => report.unreadable(path, &unreadable),
            Err(worker_lost) => report.unreadable(path, &worker_lost),
        }
        report.bar.inc(1);
    }
    Ok(())
}

/// Runs in the workers.
fn checksum(path: OsString) -> Result<Checksum, String> {
    hash(&path).map_err(|error| error.to_string())
}

fn hash(path: &OsStr) -> io::Result<Checksum> {
    let mut file = BufReader::with_capacity(BLOCK, File::open(path)?);
    let mut hasher = Sha256::new();
    let bytes = io::copy(&mut file, &mut hasher)?;
    let digest = format!("{:x}", hasher.finalize());
    Ok(Checksum { digest, bytes })
}

/// Prints the results and counts them.
struct Report {
    bar: ProgressBar,
    stdout_shares_terminal: bool,
    files: u64,
    bytes: u64,
    unreadable: u64,
}

impl Report {
    fn new() -> Result<Report, Box<dyn Error>> {
        let style = "[{elapsed_precise}] {wide_bar} {human_pos}/{human_len} files, eta {eta}";
        // Draws on standard error, and only on a terminal.
        let bar = ProgressBar::no_length().with_style(ProgressStyle::with_template(style)?);
        bar.enable_steady_tick(Duration::from_millis(100));
        Ok(Report {
            stdout_shares_terminal: !bar.is_hidden() && io::stdout().is_terminal(),
            bar,
            files: 0,
            bytes: 0,
            unreadable: 0,
        })
    }

    fn checksum(&mut self, path: &OsStr, checksum: &Checksum) -> io::Result<()> {
        self.files += 1;
        self.bytes += checksum.bytes;
        let line = line(path, &checksum.digest);
        let print = || io::stdout().write_all(&line);
        if self.stdout_shares_terminal {
            self.bar.suspend(print)
        } else {
            print()
        }
    }

    fn unreadable(&mut self, path: &OsStr, error: &dyn Display) {
        self.unreadable += 1;
        self.bar
            .suspend(|| say(&format!("checksum: {path:?}: {error}")));
    }

    fn summary(&self, elapsed: Duration, workers: usize) {
        let seconds = elapsed.as_secs_f64();
        let speed = self.bytes as f64 / 1e6 / seconds;
        let mut summary = format!(
            "checksum: {} files, {} bytes, {seconds:.2} s, {speed:.1} MB/s, {workers} workers",
            self.files, self.bytes
        );
        if self.unreadable > 0 {
            summary += &format!(", {} unreadable", self.unreadable);
        }
        say(&summary);
    }
}

/// Formats a line of `sha256sum`: if the line starts with a backslash, the name is escaped.
fn line(path: &OsStr, digest: &str) -> Vec<u8> {
    let mut name = Vec::with_capacity(path.len());
    for &byte in path.as_bytes() {
        match byte {
            b'\\' => name.extend(br"\\"),
            b'\n' => name.extend(br"\n"),
            b'\r' => name.extend(br"\r"),
            _ => name.push(byte),
        }
    }
    let mark: &[u8] = if name.len() > path.len() { br"\" } else { b"" };
    [mark, digest.as_bytes(), b"  ", &name, b"\n"].concat()
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn say(message: &str) {
    // `eprintln!` would panic if standard error is closed.
    let _ = writeln!(io::stderr(), "{message}");
}
