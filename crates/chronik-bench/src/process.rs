//! What the operating system knows of a broker process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long a broker may take to answer its first request.
const START_MAX: Duration = Duration::from_mins(2);
/// Clock ticks in a second, as `/proc` counts them on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A broker that runs; it is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) port: u16,
    /// What it wrote to its standard error.
    words: PathBuf,
    began: Instant,
}

impl Running {
    /// Starts a broker, whose last words go to a file in `directory`.
    pub(crate) fn spawn(mut command: Command, port: u16, directory: &Path) -> Result<Self> {
        let words = directory.join("stderr");
        let began = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&words)?)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child, port, words, began })
    }

    /// Waits until it answers, and gives the milliseconds from the start of the process until its first answer.
    pub(crate) fn answers(&mut self) -> Result<f64> {
        loop {
            if crate::client::Connection::open(self.port)
                .and_then(|mut connection| connection.api_versions())
                .is_ok()
            {
                return Ok(self.began.elapsed().as_secs_f64() * 1_000.0);
            }
            if let Some(status) = self.child.try_wait()? {
                let words = fs::read_to_string(&self.words).unwrap_or_default();
                bail!("the broker ended with {status} before it answered: {words}");
            }
            if self.began.elapsed() > START_MAX {
                bail!("the broker did not answer within {START_MAX:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// CPU seconds that the broker has used so far, in user and kernel mode.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name of the program stands in brackets and may hold anything; the numbers come after the last one.
        let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).context("a line of /proc/PID/stat")?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks =
            |at: usize| -> Result<f64> { Ok(fields.get(at).context("a field of /proc/PID/stat")?.parse()?) };
        Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
    }

    /// Resident memory in MB.
    pub(crate) fn resident_mb(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes / 1_024.0)
    }

    /// Kills it, as a power cut of the process alone.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
