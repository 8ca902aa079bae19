//! The two systems: how each is started on an empty or existing directory.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process::Running;

/// Chronik or Kafka.
pub(crate) struct System {
    pub(crate) name: &'static str,
    kind: Kind,
    core: Option<usize>,
}

enum Kind {
    Chronik { binary: PathBuf },
    Kafka { libs: PathBuf, heap: String },
}

impl System {
    pub(crate) fn chronik(binary: &Path, core: Option<usize>) -> Self {
        Self { name: "chronik", kind: Kind::Chronik { binary: binary.to_owned() }, core }
    }

    pub(crate) fn kafka(libs: &Path, heap: &str, core: Option<usize>) -> Self {
        Self { name: "kafka", kind: Kind::Kafka { libs: libs.to_owned(), heap: heap.to_owned() }, core }
    }

    /// Prepares an empty directory, where the system wants that.
    pub(crate) fn prepare(&self, directory: &Path) -> Result<()> {
        let Kind::Kafka { libs, .. } = &self.kind else { return Ok(()) };
        write_properties(directory, 9092, 9093)?;
        let formatted = Command::new("java")
            .arg("-cp")
            .arg(libs.join("*"))
            .args(["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c"])
            .arg(directory.join("server.properties"))
            .stdin(Stdio::null())
            .output()
            .context("cannot run Kafka's StorageTool")?;
        if !formatted.status.success() {
            bail!("Kafka's StorageTool failed: {}", String::from_utf8_lossy(&formatted.stderr));
        }
        Ok(())
    }

    /// Starts it on a directory that has been prepared.
    pub(crate) fn start(&self, directory: &Path) -> Result<Running> {
        let port = free_port()?;
        let mut command = match self.core {
            None => Command::new(self.program()),
            Some(core) => {
                let mut pinned = Command::new("taskset");
                pinned.arg("-c").arg(core.to_string()).arg(self.program());
                pinned
            }
        };
        match &self.kind {
            Kind::Chronik { .. } => {
                command
                    .env("CHRONIK_KAFKA_PORT", port.to_string())
                    .env("CHRONIK_DATA_DIR", directory.join("data"))
                    .env("CHRONIK_LOG", "warn");
            }
            Kind::Kafka { libs, heap } => {
                write_properties(directory, port, free_port()?)?;
                command
                    .arg(format!("-Xmx{heap}"))
                    .arg(format!("-Xms{heap}"))
                    .args(["-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"])
                    .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error")
                    .arg("-cp")
                    .arg(libs.join("*"))
                    .arg("kafka.Kafka")
                    .arg(directory.join("server.properties"));
            }
        }
        Running::start(command, port)
    }

    fn program(&self) -> &Path {
        match &self.kind {
            Kind::Chronik { binary } => binary,
            Kind::Kafka { .. } => Path::new("java"),
        }
    }
}

fn write_properties(directory: &Path, port: u16, controller_port: u16) -> Result<()> {
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@localhost:{controller_port}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
         log.dirs={}\noffsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
         group.initial.rebalance.delay.ms=0\n",
        directory.join("data").display()
    );
    fs::write(directory.join("server.properties"), text).context("cannot write server.properties")
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
