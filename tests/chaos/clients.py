"""The real clients: how each is started, and how far they are."""

from __future__ import annotations

import contextlib
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import accounts
from judge import JAVA, JAVA_TOPIC, PARTITIONS, PRODUCERS, READER, TOPIC

# These cost the most of the machine for a record, and are there for what they do in a fault.
OTHERS_SHARE, OTHERS_RATE_MAX = 0.1, 150
# All producers give up within this time, and the consumer has read what is there.
END_S_MAX = 150
# Clients have started by then.
START_S = 3.0
# A thread that waits this long for one lock, and for no moment else, waits for ever.
LOCKED_S = 5.0
# What waits for a lock calls this, by the machine's kind.
FUTEX = {"x86_64": "202", "aarch64": "98"}


class LockedUpError(Exception):
    """A client does not end, since it has locked itself up."""


class Client:
    """A client process that writes what it was told into files."""

    def __init__(self, name: str, command: list[str], directory: Path) -> None:
        self.name, self.command, self.directory = name, command, directory
        self.path = directory / f"{name}.out"
        # The words of one that took over follow those of the one before.
        with self.path.open("ab") as out, (directory / f"{name}.err").open("ab") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def stop(self) -> None:
        """SIGTERM; clients send no more and wait for what is under way."""
        if self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> None:
        """Until it has ended."""
        until = time.monotonic() + END_S_MAX
        while time.monotonic() < until:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(LOCKED_S)
                return
            if self.is_locked_up():
                raise LockedUpError(self.name)
        stacks = self.stacks()
        self.abort()
        raise AssertionError(f"{self.name} does not end: {stacks}")

    def abort(self) -> None:
        """End it, and let it say where it is: Python and Java write that down on their way."""
        self.process.send_signal(signal.SIGABRT)
        time.sleep(1)
        self.kill()

    def locks(self) -> dict[str, str]:
        """The locks that threads of librdkafka wait for, however long it takes, by their names.

        Where one waits for something to do, it waits for some time only.
        """
        found = {}
        for task in Path(f"/proc/{self.process.pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                name, call = (task / "comm").read_text().strip(), (task / "syscall").read_text().split()
                if name.startswith("rdk:") and call[0] == FUTEX.get(platform.machine()) and int(call[4], 16) == 0:
                    found[name] = call[1]
        return found

    def is_locked_up(self) -> bool:
        """Whether the main thread of its librdkafka and another one wait for locks that nobody will ever let go.

        That is the client's own doing, whatever a broker says or does not: librdkafka issue 5476, where an answer about
        leader epochs and the end of a broker that metadata names no longer are looked at in the same moment. All of its
        partitions stand still then, it says nothing, and cannot be closed.
        """
        locks = self.locks()
        until = time.monotonic() + LOCKED_S
        while len(locks) > 1 and "rdk:main" in locks and time.monotonic() < until:
            time.sleep(0.2)
            now = self.locks()
            locks = {name: lock for name, lock in locks.items() if now.get(name) == lock}
        return len(locks) > 1 and "rdk:main" in locks

    def stacks(self) -> str:
        """Where its threads are, by gdb if there is one."""
        if shutil.which("gdb") is None:
            return ""
        command = ["gdb", "-p", str(self.process.pid), "-batch", "-ex", "thread apply all bt"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def replace(self) -> Client:
        """End it, and let another one go on where it was."""
        stacks = self.stacks()
        self.abort()
        with (self.directory / f"{self.name}.err").open("a") as err:
            err.write(stacks)
        heir = Client(self.name, self.command, self.directory)
        # Who is stopped while it starts says nothing of its end.
        time.sleep(START_S)
        return heir

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def java(libs: Path, bootstrap: str, rate: int, directory: Path) -> list[str]:
    """Kafka's own producer for tests, made idempotent; its values are numbers."""
    config = directory / f"{JAVA}.properties"
    lines = ["enable.idempotence=true", "retries=2147483647", "delivery.timeout.ms=120000", "request.timeout.ms=5000"]
    lines += ["reconnect.backoff.max.ms=200", "retry.backoff.ms=50", "metadata.max.age.ms=2000"]
    config.write_text("\n".join(lines))
    command = ["java", "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=off", "-cp", f"{libs}/*"]
    command += ["org.apache.kafka.tools.VerifiableProducer", "--bootstrap-server", bootstrap, "--topic", JAVA_TOPIC]
    return [*command, "--throughput", str(rate), "--acks", "-1", "--command-config", str(config)]


def start(venvs: Path, libs: Path, bootstrap: str, records_per_second: int, directory: Path) -> dict[str, Client]:
    """All of them, by their names."""
    here = Path(__file__).parent
    confluent, kafka_python = (str(venvs / name / "bin/python") for name in ("confluent-kafka", "kafka-python"))
    other_rate = min(int(records_per_second * OTHERS_SHARE), OTHERS_RATE_MAX)
    rates = {"c": records_per_second - 2 * other_rate, "k": other_rate}
    programs = {"c": (confluent, "producer_confluent.py"), "k": (kafka_python, "producer_kafka_python.py")}
    where = [str(directory), bootstrap, TOPIC, str(PARTITIONS)]
    commands = {
        name: [python, str(here / program), name, *where, str(rates[name])]
        for name, (python, program) in programs.items()
    }
    topics = ",".join((TOPIC, JAVA_TOPIC))
    commands[READER] = [
        confluent,
        str(here / "reader_confluent.py"),
        str(directory),
        bootstrap,
        topics,
        str(PARTITIONS),
    ]
    commands[JAVA] = java(libs, bootstrap, other_rate, directory)
    return {name: Client(name, command, directory) for name, command in commands.items()}


class Tally:
    """How many records have been acknowledged so far; a moment late, since clients write in blocks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.java_count = self.java_read_bytes = 0

    def count(self) -> int:
        """Of all producers."""
        with (self.directory / f"{JAVA}.out").open("rb") as out:
            out.seek(self.java_read_bytes)
            # The last line may be half there; each is looked at once.
            whole, _, _ = out.read().rpartition(b"\n")
        self.java_count += whole.count(b'"producer_send_success"')
        self.java_read_bytes += len(whole)
        return self.java_count + sum(accounts.count(self.directory, name, PARTITIONS) for name in PRODUCERS)


def stop(producers: Iterable[Client]) -> None:
    """End producers together."""
    ending = list(producers)
    for client in ending:
        client.stop()
    for client in ending:
        client.wait()
