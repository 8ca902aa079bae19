//! The two systems: how each is started on empty or existing directories.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process::Running;

/// The identity that Kafka's directories are formatted with.
const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qk";

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

/// One node of a cluster, or the only one.
pub(crate) struct Node {
    pub(crate) id: i32,
    pub(crate) port: u16,
    /// Where it speaks to its peers, or to itself, of metadata.
    metadata_port: u16,
    directory: PathBuf,
}

impl Node {
    /// `count` nodes with ids from 1 on, each with a directory of its own in `directory`.
    pub(crate) fn several(count: i32, directory: &Path) -> Result<Vec<Self>> {
        // All ports are held until all are known, so that no two are the same.
        let mut held = Vec::new();
        let mut free_port = || -> Result<u16> {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        let nodes = (1..=count).map(|id| {
            let directory = directory.join(id.to_string());
            fs::create_dir_all(&directory)?;
            Ok(Self { id, port: free_port()?, metadata_port: free_port()?, directory })
        });
        nodes.collect()
    }
}

impl System {
    pub(crate) fn chronik(binary: &Path, core: Option<usize>) -> Self {
        Self { name: "chronik", kind: Kind::Chronik { binary: binary.to_owned() }, core }
    }

    pub(crate) fn kafka(libs: &Path, heap: &str, core: Option<usize>) -> Self {
        Self { name: "kafka", kind: Kind::Kafka { libs: libs.to_owned(), heap: heap.to_owned() }, core }
    }

    /// Prepares an empty directory, where the system wants that.
    pub(crate) fn prepare(&self, node: &Node, cluster: &[Node]) -> Result<()> {
        let Kind::Kafka { libs, .. } = &self.kind else { return Ok(()) };
        let formatted = Command::new("java")
            .arg("-cp")
            .arg(libs.join("*"))
            .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
            .arg(write_properties(node, cluster)?)
            .stdin(Stdio::null())
            .output()
            .context("cannot run Kafka's StorageTool")?;
        if !formatted.status.success() {
            bail!("Kafka's StorageTool failed: {}", String::from_utf8_lossy(&formatted.stderr));
        }
        Ok(())
    }

    /// Starts a node of `cluster` on its directory, which has been prepared.
    pub(crate) fn spawn(&self, node: &Node, cluster: &[Node]) -> Result<Running> {
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
                    .env("CHRONIK_KAFKA_PORT", node.port.to_string())
                    .env("CHRONIK_DATA_DIR", node.directory.join("data"))
                    .env("CHRONIK_LOG", "warn");
                if cluster.len() > 1 {
                    let peers = cluster
                        .iter()
                        .map(|peer| format!("{}@127.0.0.1:{}:{}", peer.id, peer.port, peer.metadata_port));
                    command
                        .env("CHRONIK_CLUSTER_ENABLED", "true")
                        .env("CHRONIK_NODE_ID", node.id.to_string())
                        .env("CHRONIK_CLUSTER_PEERS", peers.collect::<Vec<_>>().join(","));
                }
            }
            Kind::Kafka { libs, heap } => {
                command
                    .arg(format!("-Xmx{heap}"))
                    .arg(format!("-Xms{heap}"))
                    .args(["-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"])
                    .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error")
                    .arg("-cp")
                    .arg(libs.join("*"))
                    .arg("kafka.Kafka")
                    .arg(write_properties(node, cluster)?);
            }
        }
        Running::spawn(command, node.port, &node.directory)
    }

    fn program(&self) -> &Path {
        match &self.kind {
            Kind::Chronik { binary } => binary,
            Kind::Kafka { .. } => Path::new("java"),
        }
    }
}

/// Writes the settings of a Kafka node, which is broker and controller.
fn write_properties(node: &Node, cluster: &[Node]) -> Result<PathBuf> {
    let voters: Vec<String> =
        cluster.iter().map(|peer| format!("{}@127.0.0.1:{}", peer.id, peer.metadata_port)).collect();
    let Node { id, port, metadata_port, directory } = node;
    let count = cluster.len();
    let text = format!(
        "process.roles=broker,controller\nnode.id={id}\ncontroller.quorum.voters={voters}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{metadata_port}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
         log.dirs={data}\noffsets.topic.replication.factor={count}\n\
         transaction.state.log.replication.factor={count}\ngroup.initial.rebalance.delay.ms=0\n",
        voters = voters.join(","),
        data = directory.join("data").display()
    );
    let path = directory.join("server.properties");
    fs::write(&path, text).context("cannot write server.properties")?;
    Ok(path)
}
