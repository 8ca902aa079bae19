"""Starts, stops and kills one broker on loopback: Chronik, or Apache Kafka as the oracle.

As a program it runs a command against a fresh broker and passes on the command's exit code:

    daemon.py chronik --binary target/release/chronik-server -- COMMAND {bootstrap}
    daemon.py kafka --libs DIRECTORY-OF-JARS -- COMMAND {bootstrap}
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import unwind_when_terminated

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(host: str, port: int, timeout_s: float = 2.0) -> bool:
    """Whether the broker answers an ApiVersions v0 request: listening alone is not being ready."""
    request = struct.pack(">hhih", 18, 0, 7, -1)
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(struct.pack(">i", len(request)) + request)
            head = connection.recv(8)
            return len(head) == 8 and struct.unpack(">ii", head)[1] == 7
    except OSError:
        return False


class Daemon:
    """One broker process with a data directory of its own."""

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.data_dir = data_dir
        self.host = "127.0.0.1"
        self.port = port or free_port()
        self.log_path = data_dir.parent / f"{data_dir.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        # Broker configs by Kafka's names, beside those that every test has.
        self.configs: dict[str, str] = {}

    @property
    def bootstrap(self) -> str:
        """What a client is given."""
        return f"{self.host}:{self.port}"

    def command(self) -> list[str]:
        """The command line of the broker."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """The environment of the broker."""
        return dict(os.environ)

    def prepare(self) -> None:
        """What comes before the first start."""

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self.spawn()
        self.wait_until_ready()

    def spawn(self) -> None:
        """Start the process and return at once."""
        self.prepare()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until the process answers; one that ends or stays silent is an error with its log."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                code = self.process.returncode if self.process else None
                raise RuntimeError(f"the broker ended with code {code} at start\n{self.log_tail()}")
            if answers(self.host, self.port):
                return
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(f"the broker did not answer within {READY_TIMEOUT_S:.0f} s\n{self.log_tail()}")

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """SIGTERM and wait; the exit code. One that does not end in time is killed and is an error."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"the broker did not end within {STOP_TIMEOUT_S:.0f} s of SIGTERM") from None

    def log_tail(self, line_count: int = 40) -> str:
        """The last lines of what the process wrote."""
        with contextlib.suppress(OSError):
            lines = self.log_path.read_text(errors="replace").splitlines()
            return "\n".join(lines[-line_count:])
        return ""


class Chronik(Daemon):
    """The broker under test."""

    def __init__(self, binary: Path, data_dir: Path, port: int | None = None) -> None:
        super().__init__(data_dir, port)
        self.binary = binary.resolve()
        self.settings: dict[str, str] = {}

    def command(self) -> list[str]:
        return [str(self.binary)]

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHRONIK_")}
        return {
            **inherited,
            "CHRONIK_KAFKA_PORT": str(self.port),
            "CHRONIK_DATA_DIR": str(self.data_dir),
            **{"CHRONIK_" + name.upper().replace(".", "_"): value for name, value in self.configs.items()},
            **self.settings,
        }


class Kafka(Daemon):
    """Apache Kafka in KRaft mode with one node: what it does is what the suites expect."""

    def __init__(self, libs: Path, data_dir: Path, port: int | None = None) -> None:
        super().__init__(data_dir, port)
        self.libs = libs.resolve()
        self.controller_port = free_port()
        self.properties = data_dir.parent / f"{data_dir.name}.properties"

    def command(self) -> list[str]:
        return self._java("kafka.Kafka", str(self.properties))

    def prepare(self) -> None:
        self.properties.write_text(self._properties())
        if not (self.data_dir / "meta.properties").exists():
            cluster_id = "Y2hyb25pay10ZXN0cy1rZg"
            subprocess.run(
                self._java("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(self.properties)),
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def _java(self, main: str, *arguments: str) -> list[str]:
        return ["java", "-Xmx768m", "-cp", f"{self.libs}/*", main, *arguments]

    def _properties(self) -> str:
        listeners = f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self.controller_port}"
        own = [f"{name}={value}" for name, value in self.configs.items()]
        return "\n".join(
            [
                "process.roles=broker,controller",
                "node.id=1",
                f"controller.quorum.voters=1@127.0.0.1:{self.controller_port}",
                "controller.listener.names=CONTROLLER",
                f"listeners={listeners}",
                f"advertised.listeners=PLAINTEXT://{self.bootstrap}",
                f"log.dirs={self.data_dir}",
                "num.partitions=3",
                "offsets.topic.num.partitions=5",
                "offsets.topic.replication.factor=1",
                "transaction.state.log.replication.factor=1",
                "transaction.state.log.min.isr=1",
                "share.coordinator.state.topic.replication.factor=1",
                "share.coordinator.state.topic.min.isr=1",
                "group.initial.rebalance.delay.ms=500",
                # Of two lines with one name the later counts.
                *own,
            ]
        )


def from_arguments(options: argparse.Namespace, data_dir: Path) -> Daemon:
    """The broker that the command line asks for."""
    daemon: Daemon
    if options.broker == "kafka":
        daemon = Kafka(Path(options.libs), data_dir)
    else:
        daemon = Chronik(Path(options.binary), data_dir)
    daemon.configs.update(setting.split("=", 1) for setting in options.set)
    return daemon


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `from_arguments` reads."""
    parser.add_argument("broker", choices=["chronik", "kafka"])
    parser.add_argument("--binary", default="target/release/chronik-server", help="the chronik-server to run")
    parser.add_argument("--libs", default=os.environ.get("KAFKA_LIBS", ""), help="directory of Kafka's jars")
    parser.add_argument("--set", action="append", default=[], metavar="CONFIG=VALUE", help="a broker config")


def main() -> int:
    """Run one command against a fresh broker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--keep", metavar="DIRECTORY", help="where to leave the broker's data")
    parser.add_argument("--log", metavar="FILE", help="where to leave the broker's log")
    parser.add_argument("command", nargs="+", help="{bootstrap}, {data} and {log} are filled in")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="chronik-test-"))
    daemon = from_arguments(options, directory / "data")
    unwind_when_terminated()
    try:
        daemon.start()
        places = {"bootstrap": daemon.bootstrap, "data": daemon.data_dir, "log": daemon.log_path}
        filled = [part.format(**places) for part in options.command]
        code = subprocess.run(filled, check=False).returncode
        if not daemon.alive():
            print(f"not ok daemon: the broker ended by itself\n{daemon.log_tail()}")
            return 1
        if (stopped := daemon.stop()) != 0 and options.broker == "chronik":
            print(f"not ok daemon: exit code {stopped} after SIGTERM, want 0\n{daemon.log_tail()}")
            return 1
        return code
    finally:
        daemon.kill()
        if options.log and daemon.log_path.exists():
            shutil.copy(daemon.log_path, options.log)
        if options.keep and daemon.data_dir.exists():
            shutil.move(daemon.data_dir, options.keep)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
