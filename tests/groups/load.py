"""Groups under load, against a real broker: members of every client and assignor come and go while records come.

They join, leave, are killed and put to sleep; their history must break no rule (see history.py).

    load.py BOOTSTRAP BROKER_LOG LOG_DIRECTORY [PART-OF-A-CASE-NAME]
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import offsets_log
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from history import History, violations

import report
from data import topic_name
from report import Case

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache"
SESSION_MS = 4_000
CHAOS_S = 18.0
# From the end of the chaos until everything is committed: a session, a rebalance, and a busy machine.
CATCH_UP_S = 90.0
LEAVE_S = 20.0
NUDGE_S = 5.0
RECORDS_PER_S = 400
# Cases that run at the same time. Members sleep most of the time, and JVMs start slowly.
AT_ONCE = 4


@dataclass(frozen=True)
class Client:
    """One client: how its member is started."""

    name: str
    assignors: tuple[str, ...]
    program: tuple[str, ...]
    members_max: int = 5
    knows_static: bool = True


def python(venv: str, program: str) -> tuple[str, ...]:
    return (str(CACHE / "venv" / venv / "bin" / "python"), str(HERE / "members" / program))


GO = str(CACHE / "go-suite")
CLIENTS = [
    Client("kafka-python", ("range", "roundrobin", "sticky"), python("kafka-python", "kafka_python.py")),
    Client("confluent", ("range", "roundrobin"), python("confluent-kafka", "confluent.py")),
    Client("confluent", ("cooperative-sticky",), python("confluent-kafka", "confluent.py"), 20),
    Client("aiokafka", ("range", "roundrobin", "sticky"), python("aiokafka", "aiokafka_member.py")),
    Client("kafkajs", ("roundrobin",), ("node", str(HERE / "members" / "kafkajs.js")), knows_static=False),
    Client("franz", ("range",), (GO, "member", "franz"), 20),
    Client("franz", ("roundrobin", "sticky", "cooperative-sticky"), (GO, "member", "franz")),
    Client("sarama", ("range", "roundrobin", "sticky"), (GO, "member", "sarama")),
    Client("java", ("Range", "RoundRobin", "Sticky", "CooperativeSticky"), ("java",), 3),
]


def java_command(group: Group, name: str, instance: str) -> list[str]:
    """Kafka's own verifiable consumer, which has said from the start what the others say here."""
    command = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
    command += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{os.environ['KAFKA_LIBS']}/*"]
    command += ["org.apache.kafka.tools.VerifiableConsumer", "--bootstrap-server", group.bootstrap]
    command += ["--topic", group.topic, "--group-id", group.topic, "--reset-policy", "earliest"]
    command += ["--session-timeout", str(SESSION_MS)]
    command += ["--assignment-strategy", f"org.apache.kafka.clients.consumer.{group.assignor}Assignor"]
    # The client id has no option of its own.
    settings = group.directory / f"{name}.properties"
    settings.write_text(f"client.id={name}\nheartbeat.interval.ms=400\n")
    command += ["--command-config", str(settings)]
    if instance:
        command += ["--group-instance-id", instance]
    return command


class Process:
    """One member and what it says."""

    def __init__(self, group: Group, name: str, instance: str) -> None:
        self.group = group
        self.name = name
        self.instance = instance
        self.is_asleep = False
        if group.client.program == ("java",):
            command = java_command(group, name, instance)
        else:
            arguments = [group.bootstrap, group.topic, group.topic, group.assignor, name, str(SESSION_MS), instance]
            command = [*group.client.program, *arguments]
        with (group.directory / f"{name}.err").open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        stream = self.process.stdout
        if stream is None:
            return
        with (self.group.directory / f"{self.name}.out").open("w") as kept:
            for line in stream:
                kept.write(line)
                kept.flush()
                if line.startswith("{"):
                    try:
                        event = json.loads(line)
                    except ValueError:
                        # The last line of one that was killed while it spoke.
                        continue
                    self.group.heard(self.name, self.instance, event)

    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.alive():
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL. From now on it owns nothing."""
        self.group.gone(self.name)
        self.process.kill()
        self.wait()

    def sleep(self) -> None:
        self.group.gone(self.name)
        self.is_asleep = True
        self.signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.is_asleep = False
        self.signal(signal.SIGCONT)

    def wait(self) -> None:
        try:
            self.process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not leave within {LEAVE_S:.0f} s") from None
        finally:
            self.reader.join(LEAVE_S)


class Group:
    """One group over a topic of its own, its members, and its history."""

    # Of its topic's partitions.
    replicas = 1

    def __init__(
        self, bootstrap: str, broker_logs: list[Path], logs: Path, client: Client, assignor: str, static: bool
    ) -> None:
        kind = "static" if static else "dynamic"
        self.name = f"{client.name}-{assignor}-{kind}"
        self.bootstrap = bootstrap
        self.broker_logs = broker_logs
        self.client = client
        self.assignor = assignor
        self.static = static
        self.topic = topic_name(f"load-{client.name}-{assignor}".lower())
        self.partitions = max(8, client.members_max)
        self.directory = logs / self.name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.random = random.Random(self.name)
        self.history = History()
        self.lock = threading.Lock()
        self.members: list[Process] = []
        self.started = 0
        self.free_instances = [f"{self.topic}-instance-{n}" for n in range(client.members_max)] if static else []
        # The members that were started as each static one.
        self.instances: dict[str, set[str]] = {}
        self.happened: dict[str, int] = {}

    # --- what members say -------------------------------------------------------------------------------------

    def heard(self, member: str, instance: str, event: dict) -> None:
        name = event["name"]
        at = event.get("time_ns") or int(event.get("timestamp", 0)) * 1_000_000
        with self.lock:
            if name in ("assigned", "partitions_assigned"):
                self.history.assigned(member, self._places(event), at, event.get("generation"), instance)
            elif name in ("revoked", "partitions_revoked"):
                self.history.revoked(member, self._places(event), at)
            elif name == "consumed":
                for place, first, last in event["ranges"]:
                    self.history.delivered(place, first, last)
            elif name == "committed":
                for place, offset in event["offsets"]:
                    self.history.committed(place, offset)
            elif name == "records_consumed":
                for part in event["partitions"]:
                    if part["count"] != part["maxOffset"] - part["minOffset"] + 1:
                        raise AssertionError(f"{member} says {event}, which has gaps")
                    self.history.delivered(part["partition"], part["minOffset"], part["maxOffset"])

    def _places(self, event: dict) -> list[int]:
        return [place["partition"] if isinstance(place, dict) else place for place in event["partitions"] or []]

    def gone(self, member: str) -> None:
        with self.lock:
            self.history.gone(member, time.time_ns())

    # --- what is done to them ---------------------------------------------------------------------------------

    def join(self, instance: str = "") -> None:
        self.started += 1
        if self.static and not instance:
            if not self.free_instances:
                return
            instance = self.free_instances.pop(0)
        name = f"{self.name}-m{self.started}"
        if instance:
            self.instances.setdefault(instance, set()).add(name)
        self.members.append(Process(self, name, instance))

    def _count(self, what: str) -> None:
        self.happened[what] = self.happened.get(what, 0) + 1

    def _take(self) -> Process | None:
        awake = [member for member in self.members if not member.is_asleep]
        return self.random.choice(awake) if len(awake) > 1 else None

    def leave_one(self) -> None:
        if member := self._take():
            self._count("left")
            self.members.remove(member)
            member.signal(signal.SIGTERM)
            member.wait()
            self.gone(member.name)
            if self.static:
                # It has not left its group, and is back at once: a restart.
                self.join(member.instance)

    def kill_one(self) -> None:
        if member := self._take():
            self._count("killed")
            self.members.remove(member)
            member.kill()
            if self.static:
                self.join(member.instance)

    def sleep_one(self, seconds: float) -> None:
        if member := self._take():
            self._count("slept")
            member.sleep()
            threading.Timer(seconds, member.wake).start()

    def chaos(self) -> None:
        """Changes the group until the time is over; a large one is filled at once, so that it is large for a while."""
        self.join()
        for _ in range(self.client.members_max * 2 // 3 if self.client.members_max > 5 else 1):
            self.join()
        pause_s = 0.4 if self.client.members_max > 5 else 1.2
        end = time.monotonic() + CHAOS_S
        ways: list[str] = []
        while time.monotonic() < end:
            time.sleep(pause_s * self.random.uniform(0.5, 1.5))
            if len(self.members) < self.client.members_max and self.random.random() < 0.4:
                self._count("joined")
                self.join()
                continue
            # Each has its turn before one comes again.
            if not ways:
                ways = self.random.sample(["leave", "kill", "sleep", "doze"], 4)
            way = ways.pop()
            if way == "leave":
                self.leave_one()
            elif way == "kill":
                self.kill_one()
            else:
                # Beyond its session, or within.
                self.sleep_one(SESSION_MS / 1000 + 2 if way == "sleep" else 1.5)

    # --- the course of a case ---------------------------------------------------------------------------------

    def run(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        admin.create_topics([NewTopic(self.topic, self.partitions, self.replicas)])[self.topic].result(30)
        flow = Flow(self.bootstrap, self.topic, self.partitions)
        try:
            self.chaos()
            for member in self.members:
                member.wake()
            if not any(member.alive() for member in self.members):
                self.join()
            self._catch_up(flow)
        finally:
            flow.stop()
            self._end()
        log = self._read_log()
        self._expelled(log)
        if found := violations(self.history):
            raise AssertionError(f"{len(found)} violations: {'; '.join(found[:8])}")
        for what in ("joined", "left", "killed", "slept"):
            if self.client.members_max > 3 and not self.static and what not in self.happened:
                raise AssertionError(f"nothing {what} in this history: {self.happened}")
        produced = sum(self.history.ends.values())
        print(
            f"# {self.name}: {produced} records, {self.history.deliveries} deliveries, {self.started} members started, "
            f"{self.happened}, {len(self.history.generations)} generations in the log, "
            f"{len(self.history.commits)} commits",
            flush=True,
        )

    def _catch_up(self, flow: Flow) -> None:
        """Waits until everything is committed.

        A commit that fails in a rebalance is made good by the member's next one, so every partition gets a record
        now and then until then.
        """
        flow.stop()
        deadline = time.monotonic() + CATCH_UP_S
        next_nudge = time.monotonic() + NUDGE_S
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.topic})
        places = [TopicPartition(self.topic, partition) for partition in range(self.partitions)]
        try:
            while True:
                self.history.ends = dict(flow.ends)
                try:
                    committed = {place.partition: place.offset for place in consumer.committed(places, timeout=10)}
                except KafkaException:
                    committed = {}
                behind = {p: committed.get(p) for p, end in self.history.ends.items() if committed.get(p) != end}
                if not behind:
                    return
                if time.monotonic() > deadline:
                    alive = [member.name for member in self.members if member.alive()]
                    wanted = {partition: self.history.ends[partition] for partition in behind}
                    raise AssertionError(
                        f"after {CATCH_UP_S:.0f} s {behind} are committed, want {wanted}; alive {alive}"
                    )
                if time.monotonic() > next_nudge:
                    next_nudge = time.monotonic() + NUDGE_S
                    flow.write(list(behind))
                time.sleep(0.3)
        finally:
            consumer.close()

    def _end(self) -> None:
        for member in self.members:
            member.wake()
            member.signal(signal.SIGTERM)
        for member in self.members:
            member.wait()

    def _expelled(self, log: offsets_log.GroupLog) -> None:
        """Members whose sessions a busy machine has let end, by what the broker says of them."""
        words = re.compile(r"^\[([^\]]+)\].*(session of member|session has ended|put out members|has failed|not sync)")
        ids = re.compile(rf"({re.escape(self.name)}-m\d+|{re.escape(self.topic)}-instance-\d+)(-[\w-]{{22,36}})")
        logs = [path.read_text(errors="replace") for path in self.broker_logs if path.exists()]
        for line in "".join(logs).splitlines():
            if found := words.match(line):
                at = datetime.strptime(found.group(1), "%Y-%m-%d %H:%M:%S,%f").timestamp()
                for who, end_of_id in ids.findall(line):
                    later = [
                        time_ms
                        for _, time_ms, members in log.generations
                        if time_ms >= at * 1e3
                        and any(member.startswith(f"{who}-") and member != who + end_of_id for member in members)
                    ]
                    for name in self.instances.get(who, {who}):
                        self.history.put_out(name, int(at * 1e9), min(later) * 1_000_000 if later else None)

    def _read_log(self) -> offsets_log.GroupLog:
        log = offsets_log.read(self.bootstrap)[self.topic]
        self.history.commits = [(place, offset) for topic, place, offset in log.commits if topic == self.topic]
        self.history.generations = [
            (
                generation,
                {member: offsets_log.assigned_partitions(part, self.topic) for member, part in members.items()},
            )
            for generation, _, members in log.generations
        ]
        if not self.history.commits or not self.history.generations:
            raise AssertionError(f"{offsets_log.TOPIC} tells nothing of {self.topic}")
        return log


class Flow:
    """Writes numbered records to every partition until it is stopped."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self.producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "enable.idempotence": True})
        self.topic = topic
        self.ends = dict.fromkeys(range(partitions), 0)
        self.stopped = threading.Event()
        self.failed: str | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _delivered(self, error: object, message: object) -> None:
        if error is not None:
            self.failed = str(error)
            return
        self.ends[message.partition()] = max(self.ends[message.partition()], message.offset() + 1)  # type: ignore[attr-defined]

    def _run(self) -> None:
        number = 0
        while not self.stopped.is_set():
            for _ in range(RECORDS_PER_S // 20):
                place = number % len(self.ends)
                self.producer.produce(self.topic, str(number).encode(), partition=place, on_delivery=self._delivered)
                number += 1
            self.producer.poll(0)
            time.sleep(0.05)
        self.producer.flush(30)

    def write(self, partitions: list[int]) -> None:
        """One more record for each of these."""
        for partition in partitions:
            self.producer.produce(self.topic, b"one more", partition=partition, on_delivery=self._delivered)
        self.producer.flush(30)

    def stop(self) -> None:
        """No more records by themselves; `ends` says where each partition ends."""
        self.stopped.set()
        self.thread.join()
        if self.failed:
            raise AssertionError(f"a record could not be written: {self.failed}")


def cases(bootstrap: str, broker_log: Path, logs: Path) -> list[tuple[str, Case]]:
    named: list[tuple[str, Case]] = []
    for client in CLIENTS:
        for number, assignor in enumerate(client.assignors):
            # Static members with one assignor of each client: they differ in nothing that is the assignor's.
            kinds = [False, True] if number == 0 and client.knows_static and client.members_max < 20 else [False]
            for static in kinds:
                group = Group(bootstrap, [broker_log], logs, client, assignor, static)
                named.append((group.name, partial(group.run)))
    # The slow ones first, so that they do not end alone.
    return sorted(named, key=lambda case: not case[0].startswith("java"))


if __name__ == "__main__":
    address, log, directory, *only = sys.argv[1:]
    sys.exit(report.run(cases(address, Path(log), Path(directory)), *only, at_once=AT_ONCE))
