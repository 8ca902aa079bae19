"""`scripts/cluster`: up twice, a node killed and started again, down; and what it refuses."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from daemon import answers, free_port
from report import expect, run

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "cluster"
NODES = (1, 2, 3)


def free_base() -> int:
    """The first of three ports in a row that nobody listens on."""
    while True:
        base = free_port()
        if base < 65_000 and not any(answers("127.0.0.1", base + i, 0.2) for i in range(3)):
            return base


class Launcher:
    """The script with a directory and ports of its own."""

    def __init__(self, binary: Path, directory: Path) -> None:
        self.directory = directory
        self.kafka, self.raft, self.http = free_base(), free_base(), free_base()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CHRONIK_")},
            "CHRONIK_BINARY": str(binary.resolve()),
            "CHRONIK_CLUSTER_DIR": str(directory),
            "KAFKA_BASE_PORT": str(self.kafka),
            "RAFT_BASE_PORT": str(self.raft),
            "HTTP_BASE_PORT": str(self.http),
        }

    def call(self, *arguments: str, **settings: str) -> tuple[int, str]:
        """Exit code and what it says."""
        done = subprocess.run(
            [SCRIPT, *arguments],
            env={**self.environment, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout

    def ok(self, *arguments: str) -> str:
        """The same, for a call that must succeed."""
        code, said = self.call(*arguments)
        if code != 0:
            raise AssertionError(f"{arguments} ended with {code}: {said}")
        return said

    def pid(self, node: int) -> int:
        """The process of a node."""
        return int((self.directory / f"node-{node}.pid").read_text().split()[0])


def alive(pid: int) -> bool:
    """Whether a process of that number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def roll(launcher: Launcher) -> None:
    """Every node is restarted, one by one, and only when all run."""
    before = [launcher.pid(node) for node in NODES]
    said = launcher.ok("roll")
    expect("told", said.splitlines()[-1], "all nodes are restarted, and all replicas in sync")
    after = [launcher.pid(node) for node in NODES]
    expect("every process is another", [old != new for old, new in zip(before, after, strict=True)], [True] * 3)
    expect("handed over", launcher.ok("logs", "1").count("Handed over everything") >= 1, True)
    launcher.ok("stop", "3")
    code, told = launcher.call("roll")
    expect("with one that is away", (code, "node 3 does not run" in told), (1, True))
    launcher.ok("start", "3")


def cases(launcher: Launcher) -> list[tuple[str, Callable[[], None]]]:
    """What is tested, in order."""

    def up() -> None:
        said = launcher.ok("up")
        for node in NODES:
            expect(f"node {node} is told", f"node {node} is ready: localhost:{launcher.kafka + node - 1}" in said, True)
            expect(f"node {node} answers", answers("127.0.0.1", launcher.kafka + node - 1), True)
            with urllib.request.urlopen(f"http://127.0.0.1:{launcher.http + node - 1}/metrics", timeout=10) as told:
                text = told.read().decode()
            expect(f"brokers by node {node}", "\nchronik_brokers_registered 3\n" in text, True)

    def up_again_changes_nothing() -> None:
        before = [launcher.pid(node) for node in NODES]
        expect("told", launcher.ok("up").count("runs already"), 3)
        expect("processes", [launcher.pid(node) for node in NODES], before)
        expect("status", launcher.ok("status").count(": ready"), 3)

    def kill_and_start() -> None:
        pid = launcher.pid(2)
        launcher.ok("kill", "2")
        expect("gone", alive(pid), False)
        code, said = launcher.call("status")
        expect("status", (code, "node 2: does not run" in said), (1, True))
        expect("killed twice", launcher.call("kill", "2")[0], 1)
        expect("back", "node 2 is ready" in launcher.ok("start", "2"), True)
        expect("log", "has been unfenced" in launcher.ok("logs", "2"), True)
        expect("tail", len(launcher.ok("logs", "2", "-n", "1").splitlines()), 1)

    def a_number_that_is_somebody_elses_is_left_alone() -> None:
        with subprocess.Popen(["sleep", "60"]) as other:
            file = launcher.directory / "node-3.pid"
            own = file.read_text()
            file.write_text(f"{other.pid}\nThu Jan 1 00:00:00 1970\n")
            expect("refused", launcher.call("kill", "3")[0], 1)
            expect("lives", other.poll(), None)
            file.write_text(own)
            other.send_signal(signal.SIGTERM)

    def mistakes_are_named() -> None:
        for arguments, settings, part in (
            (("kill", "4"), {}, "Say 1, 2 or 3"),
            (("start",), {}, "Say 1, 2 or 3"),
            (("nonsense",), {}, "scripts/cluster up"),
            (("up",), {"KAFKA_BASE_PORT": "x"}, "'x' is no port"),
            (("up",), {"CHRONIK_BINARY": "/nonexistent"}, "CHRONIK_BINARY is '/nonexistent'"),
            (("down", "--now"), {}, "-v or nothing"),
        ):
            code, said = launcher.call(*arguments, **settings)
            expect(f"{arguments}", (code != 0, part in said), (True, True))

    def a_taken_port_is_told() -> None:
        launcher.ok("stop", "1")
        code, said = launcher.call("start", "1", KAFKA_BASE_PORT=str(launcher.kafka + 1))
        expect("told", (code, "another process uses that port" in said), (1, True))
        launcher.ok("start", "1")

    def down() -> None:
        pids = [launcher.pid(node) for node in NODES]
        launcher.ok("down")
        expect("gone", [alive(pid) for pid in pids], [False] * 3)
        expect("data", (launcher.directory / "node-1").is_dir(), True)
        launcher.ok("up")
        launcher.ok("down", "-v")
        expect("no data", list(launcher.directory.iterdir()), [])
        expect("twice", launcher.ok("down").count("does not run"), 3)

    return [
        ("up", up),
        ("up again changes nothing", up_again_changes_nothing),
        ("kill and start", kill_and_start),
        ("roll", lambda: roll(launcher)),
        ("a number that is somebody else's is left alone", a_number_that_is_somebody_elses_is_left_alone),
        ("mistakes are named", mistakes_are_named),
        ("a taken port is told", a_taken_port_is_told),
        ("down", down),
    ]


def main() -> int:
    """Run all cases, and leave no process behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chronik-launch-") as directory:
        launcher = Launcher(Path(options.binary), Path(directory))
        try:
            return run(cases(launcher))
        finally:
            launcher.call("down", "-v")


if __name__ == "__main__":
    sys.exit(main())
