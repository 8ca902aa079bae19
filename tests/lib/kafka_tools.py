"""Runs the command line tools of Apache Kafka 4.3.1 as the scripts in its bin directory do."""

from __future__ import annotations

import subprocess
from pathlib import Path

# A JVM takes a second or two to start, and many times that on a machine with too much to do.
TIMEOUT_S = 120
TOPICS = "org.apache.kafka.tools.TopicCommand"
CONFIGS = "kafka.admin.ConfigCommand"
LEADER_ELECTION = "org.apache.kafka.tools.LeaderElectionCommand"
DELETE_RECORDS = "org.apache.kafka.tools.DeleteRecordsCommand"
GET_OFFSETS = "org.apache.kafka.tools.GetOffsetShell"
METADATA_QUORUM = "org.apache.kafka.tools.MetadataQuorumCommand"


def run(libs: Path, main: str, bootstrap: str, *arguments: str, code: int = 0) -> str:
    """Run one tool, which must end with this exit code; what it says, errors too."""
    command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{libs}/*"]
    done = subprocess.run(
        [*command, main, "--bootstrap-server", bootstrap, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != code:
        raise AssertionError(f"{main} {arguments} at {bootstrap} ended with {done.returncode}: {done.stdout[-1000:]}")
    return done.stdout
