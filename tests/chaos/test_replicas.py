"""The checker finds what it is for, and nothing where there is nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import accounts
import judge
import replicas
from accounts import code_of
from replicas import Verdict, batches, check_acknowledged, check_order, check_seen, codes, compare

import changes
import wire


def log(*batches: tuple[int, list[bytes]]) -> bytes:
    """A log of batches, each with the offset at which it begins."""
    return b"".join(wire.batch(*values, base_offset=offset).encode() for offset, values in batches)


GOOD = log((0, [b"a:0", b"b:0"]), (2, [b"a:1"]), (3, [b"b:2", b"a:4"]))
# What the producers of the good log were told: where each value is.
TOLD = {"a": [(0, b"a:0"), (2, b"a:1"), (4, b"a:4")], "b": [(1, b"b:0"), (3, b"b:2")]}


def entries(*places: tuple[int, bytes]) -> list[tuple[int, int, int]]:
    """A client's account."""
    return [(offset, code_of(value), 0) for offset, value in places]


def verdict_of(data: bytes) -> Verdict:
    """What is found in one partition."""
    verdict = Verdict()
    found = codes(data, verdict, "t-0")
    check_order(found, {"a": 10, "b": 10}, verdict, "t-0")
    for told in TOLD.values():
        check_acknowledged(found, entries(*told), verdict, "t-0")
    return verdict


class Checker(unittest.TestCase):
    """Each rule is broken once."""

    def test_a_good_log_is_good(self) -> None:
        verdict = verdict_of(GOOD)
        self.assertEqual((verdict.words, verdict.record_count, verdict.acknowledged_count), ([], 5, 5))
        self.assertTrue(verdict.is_good())

    def test_a_lost_record(self) -> None:
        verdict = verdict_of(log((0, [b"a:0", b"b:0"]), (2, [b"a:1"])))
        self.assertEqual((verdict.lost, verdict.is_good()), (2, False))

    def test_records_that_were_never_acknowledged_may_be_there_or_not(self) -> None:
        longer = GOOD + log((5, [b"a:9"]))
        self.assertTrue(verdict_of(longer).is_good())

    def test_a_record_at_another_offset(self) -> None:
        moved = log((0, [b"b:0", b"a:0"]), (2, [b"a:1"]), (3, [b"b:2", b"a:4"]))
        self.assertEqual(verdict_of(moved).misplaced, 2)

    def test_a_doubled_record(self) -> None:
        self.assertEqual(verdict_of(GOOD + log((5, [b"a:4"]))).doubled, 1)

    def test_a_record_out_of_order(self) -> None:
        self.assertEqual(verdict_of(GOOD + log((5, [b"a:3"]))).reordered, 1)

    def test_what_nobody_sent(self) -> None:
        for value in (
            b"c:0",
            b"a:10",
            b"nonsense",
            b"",
            b"a:",
            b"a:07",
            b"a:-1",
            b"a:9\n",
            b"5",
            b"a:99999999999999999",
        ):
            self.assertEqual(verdict_of(GOOD + log((5, [value]))).unknown, 1, value)

    def test_a_number_alone_has_a_code_of_its_own(self) -> None:
        self.assertEqual([accounts.shown(code_of(value)) for value in (b"0", b"17", b"a:17")], ["0", "17", "a:17"])

    def test_gaps_and_torn_ends(self) -> None:
        self.assertEqual(verdict_of(GOOD + log((6, [b"a:5"]))).damaged, 1)
        self.assertEqual(verdict_of(GOOD + b"\0" * 7).damaged, 1)
        # What begins where something is already is not looked at any further.
        self.assertEqual(verdict_of(GOOD + log((4, [b"a:5"]))).damaged, 1)

    def test_batches_that_nobody_sent(self) -> None:
        for attributes in (0x01, 0x20):
            strange = wire.batch(b"a:5", base_offset=5, attributes=attributes).encode()
            self.assertEqual(verdict_of(GOOD + strange).damaged, 1)

    def test_a_batch_that_is_not_what_its_checksum_is_of(self) -> None:
        self.assertEqual(verdict_of(GOOD + wire.batch(b"a:5", base_offset=5, crc=7).encode()).damaged, 1)
        for at in (replicas.CRC_FROM + 8, len(GOOD) - 1):
            flipped = bytearray(GOOD)
            # A timestamp, and the count of headers of the last record: nothing else looks at them.
            flipped[at] ^= 1
            self.assertEqual(verdict_of(bytes(flipped)).damaged, 1, at)

    def test_epochs_that_go_back(self) -> None:
        def of_epochs(*epochs: int) -> bytes:
            data = bytearray(GOOD)
            for (at, _, _), epoch in zip(batches(GOOD), epochs, strict=True):
                data[at + 12 : at + 16] = wire.i32(epoch)
            return bytes(data)

        self.assertTrue(verdict_of(of_epochs(1, 1, 3)).is_good())
        self.assertEqual(verdict_of(of_epochs(1, 3, 2)).damaged, 1)

    def test_replicas_that_differ(self) -> None:
        for other, count in ((GOOD, 0), (GOOD[:-3], 3), (GOOD[:70] + b"X" + GOOD[71:], 1)):
            verdict = Verdict()
            compare({"1": GOOD, "2": GOOD, "3": other}, verdict, "t-0")
            self.assertEqual((verdict.different_bytes, verdict.is_good()), (count, count == 0))

    def test_what_a_consumer_saw(self) -> None:
        found = codes(GOOD, Verdict(), "t-0")
        everything = [(0, b"a:0"), (1, b"b:0"), (2, b"a:1"), (3, b"b:2"), (4, b"a:4")]
        for places, kind, count in (
            (everything, "lost", 0),
            (everything[:3], "unseen", 2),
            (everything[:2] + everything[3:], "misplaced", 1),
            (everything[:2] + everything[1:], "misplaced", 1),
            ([(0, b"b:0"), *everything[1:]], "lost", 1),
            ([*everything, (5, b"a:5")], "lost", 1),
        ):
            verdict = Verdict()
            check_seen(found, entries(*places), verdict, "t-0")
            self.assertEqual((getattr(verdict, kind), verdict.is_good()), (count, count == 0), places)

    def test_what_was_acknowledged_without_an_offset(self) -> None:
        found = codes(GOOD, Verdict(), "t-0")
        for value, lost in ((b"a:1", 0), (b"a:2", 1)):
            verdict = Verdict()
            check_acknowledged(found, entries((0, b"a:0"), (-1, value)), verdict, "t-0")
            self.assertEqual((verdict.lost, verdict.acknowledged_count, verdict.unplaced_count), (lost, 2, 1))

    def test_gaps_between_acknowledgements(self) -> None:
        found = codes(GOOD, Verdict(), "t-0")
        told = [(0, code_of(b"a:0"), 1_000), (2, code_of(b"a:1"), 1_010), (4, code_of(b"a:4"), 3_010)]
        gaps = check_acknowledged(found, told, Verdict(), "t-0")
        self.assertEqual(gaps, [(1_010, 3_010)])
        record = judge.Record(1, [1], [("early", 0.2, 0.6), ("it", 1.1, 3.5), ("late", 3.7, 4.0)])
        self.assertEqual(judge.gaps_by_kind(record, gaps), {"early": [0.0], "it": [2.0], "late": [0.0]})


def java_end(sent: int, acknowledged: int) -> str:
    """What Kafka's VerifiableProducer prints last."""
    return json.dumps({"name": "tool_data", "sent": sent, "acked": acknowledged})


class WholeRuns(unittest.TestCase):
    """What a run leaves behind, judged as it is at the end of one."""

    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.record = judge.Record(1, [1, 2, 3])
        names = ("c", "k", *map(accounts.of_reader, (judge.TOPIC, judge.JAVA_TOPIC)))
        clients = [accounts.Accounts(self.directory, name, judge.PARTITIONS) for name in names]
        for partition in range(judge.PARTITIONS):
            values = [f"c:{partition}".encode(), f"k:{partition}".encode()]
            self.lay(judge.TOPIC, partition, log((0, values)))
            self.lay(judge.JAVA_TOPIC, partition, log((0, [str(partition).encode()])))
            for offset, value in enumerate(values):
                clients[offset].write(partition, offset, code_of(value), 0)
                clients[2].write(partition, offset, code_of(value), 0)
            clients[3].write(partition, 0, code_of(b"%d" % partition), 0)
        for client in clients:
            client.close()
        for node in self.record.nodes:
            self.log(node, f"Leader of chaos-1 is now 2 (leader epoch {node}): broker 1 is fenced")
        for name in ("c", "k"):
            self.say(name, f"# sent {judge.PARTITIONS}")
        self.say("reader", "# read all")
        told = [{"name": "producer_send_success", "partition": n, "offset": 0, "value": str(n)} for n in range(6)]
        self.say("java", *map(json.dumps, told), java_end(6, 6), '{"name": "producer_send_suc')

    def lay(self, topic: str, partition: int, data: bytes, nodes: tuple[int, ...] = (1, 2, 3)) -> None:
        """Put a log on disks."""
        for node in nodes:
            place = self.directory / f"chronik-data-{node}" / f"{topic}-{partition}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{0:020}.log").write_bytes(data)

    def say(self, name: str, *lines: str) -> None:
        """What a client has printed."""
        (self.directory / f"{name}.out").write_text("\n".join(lines))

    def log(self, node: int, *lines: str) -> None:
        """What a node has logged."""
        (self.directory / f"node-{node}.log").write_text("\n".join(lines))

    def judged(self) -> judge.Outcome:
        """The outcome."""
        return judge.judge(self.directory, self.record)

    def test_a_good_run_is_good(self) -> None:
        outcome = self.judged()
        self.assertEqual((outcome.errors, outcome.verdict.words), ([], []))
        found = outcome.verdict
        self.assertEqual((found.acknowledged_count, found.record_count, found.seen_count), (18, 18, 18))

    def test_any_replica_may_differ(self) -> None:
        for node in self.record.nodes:
            for topic, value in ((judge.TOPIC, b"c:3"), (judge.JAVA_TOPIC, b"3")):
                self.setUp()
                self.lay(topic, 3, log((0, [value, b"k:3"])) + b"\0", (node,))
                self.assertGreater(self.judged().verdict.different_bytes, 0)

    def test_a_topic_beside_is_compared_too(self) -> None:
        self.lay("beside", 1, log((0, [b"beside"])), (2,))
        self.assertGreater(self.judged().verdict.different_bytes, 0)

    def test_what_is_wrong_on_all_replicas_alike(self) -> None:
        for topic, value in ((judge.TOPIC, b"c:4"), (judge.JAVA_TOPIC, b"4"), ("beside", b"beside-1")):
            self.setUp()
            self.lay(topic, 2, wire.batch(value, crc=7).encode())
            self.assertEqual(self.judged().verdict.damaged, 1, topic)

    def test_what_the_reader_saw_of_the_java_producer(self) -> None:
        accounts.path(self.directory, accounts.of_reader(judge.JAVA_TOPIC), 2).write_bytes(b"")
        self.assertEqual(self.judged().verdict.unseen, 1)

    def test_what_is_lost_everywhere(self) -> None:
        for topic in (judge.TOPIC, judge.JAVA_TOPIC):
            self.setUp()
            self.lay(topic, 5, b"")
            self.assertGreater(self.judged().verdict.lost, 0)

    def test_errors_that_applications_were_told(self) -> None:
        failed = json.dumps({"name": "producer_send_error", "exception": "E", "message": "m"})
        for name, line in (("c", "timed out"), ("k", "timed out"), ("reader", "out of range"), ("java", failed)):
            self.setUp()
            path = self.directory / f"{name}.out"
            path.write_text(f"{line}\n{path.read_text()}")
            self.assertEqual(len(self.judged().errors), 1, name)

    def test_changes_of_leaders_that_are_told_wrongly(self) -> None:
        line = "Leader of chaos-1 is now 2 (leader epoch 1): broker 1 is fenced"
        self.log(3, line)
        self.assertEqual(self.judged().errors, ["leader epoch 1 of chaos-1 is told more than once"])
        # Of a topic that is made anew, and where it is said.
        again = f"{line} (written by the controller of term 2, which may have told it)"
        self.log(3, "Leader of beside-1 is now 2 (leader epoch 1): broker 1 is fenced", again)
        self.log(2, "Leader of beside-1 is now 2 (leader epoch 1): broker 1 is fenced")
        self.assertEqual(self.judged().errors, [])
        self.log(3, "chaos-1 has no leader (leader epoch 9): it was elected")
        self.assertEqual(len(self.judged().errors), 1)
        for node in self.record.nodes:
            self.log(node, "chaos-1: somebody else leads")
        self.assertEqual(self.judged().errors, ["no node tells of any leader"])

    def test_changes_of_isrs_that_are_told_wrongly(self) -> None:
        line = "ISR of chaos-1 is now [2, 3] (partition epoch 4): broker 1 is fenced"
        self.log(2, line)
        self.log(3, line)
        self.assertEqual(self.judged().errors, ["partition epoch 4 of chaos-1 is told more than once"])
        self.log(3, line.replace("4", "5"), line.replace("chaos-1", "chaos-2"))
        self.assertEqual(self.judged().errors, [])

    def test_changes_of_leaders_that_nobody_tells_of(self) -> None:
        logs = {node: Path(self.directory) / f"untold-{node}.log" for node in (1, 2)}
        logs[1].write_text("Leader of t-0 is now 2 (leader epoch 1): broker 1 is fenced\n")
        logs[2].write_text("Leader of t-0 is now 1 (leader epoch 3): it is the preferred leader\n")
        missing = "nobody tells of the leader epochs [2] of t-0"
        self.assertEqual(changes.untold(logs, {}), [missing])
        with logs[2].open("a") as log:
            log.write("t-0 has no leader (leader epoch 2): broker 2 is fenced\n")
        self.assertEqual(changes.untold(logs, {"t-0": 1, "t-1": 1}), [])
        self.assertEqual(len(changes.untold(logs, {"t-0": 2})), 1)

    def test_what_is_told_again_is_told_once_by_each_and_alike(self) -> None:
        line = "ISR of chaos-1 is now [2, 3] (partition epoch 4): broker 1 is fenced"
        again = f"{line} (written by the controller of term 2, which may have told it) (some::module)"
        line += " (some::module)"
        for logs, errors in (
            (([line], [again]), []),
            (([again], [again]), []),
            (([], [line, again]), ["partition epoch 4 of chaos-1 is told more than once by one node"]),
            (([], [again, again]), ["partition epoch 4 of chaos-1 is told more than once by one node"]),
            (
                ([line], [again.replace("broker 1", "broker 2")]),
                ["partition epoch 4 of chaos-1 is told in more than one way"],
            ),
            (([line], [again.replace("[2, 3]", "[3]")]), ["partition epoch 4 of chaos-1 is told in more than one way"]),
        ):
            for node, lines in zip((2, 3), logs, strict=True):
                self.log(node, *lines)
            self.assertEqual(self.judged().errors, errors, logs)

    def test_clients_that_did_not_end_or_did_nothing(self) -> None:
        self.say("reader")
        self.assertEqual(self.judged().errors, ["reader: it has not come to its end"])
        self.setUp()
        self.say("c", "# sent 7")
        self.assertEqual(self.judged().errors, ["13 records were sent and 12 answered"])
        self.setUp()
        self.say("java", java_end(0, 0))
        self.assertEqual(self.judged().errors, ["nothing in chaos-java was acknowledged"])

    def test_a_java_producer_that_died_or_was_not_answered(self) -> None:
        path = self.directory / "java.out"
        *told, _, _ = good = path.read_text().splitlines()
        self.say("java", *told)
        self.assertEqual(self.judged().errors, ["java: it has not come to its end"])
        for end in (java_end(7, 6), java_end(7, 7), java_end(6, 5)):
            self.say("java", *told, end)
            self.assertEqual(len(self.judged().errors), 1, end)
        # What lies there and was never sent.
        self.say("java", *good[:5], java_end(5, 5))
        outcome = self.judged()
        self.assertEqual((outcome.errors, outcome.verdict.unknown), ([], 1))


# A consumer that is given some offsets of a partition, and is told to end.
FAKE_CONSUMER = """
import os, signal
class TopicPartition:
    def __init__(self, *place): self.place = place
class Message:
    def __init__(self, offset): self.at = offset
    error = lambda self: "broken" if self.at is None else None
    topic, partition, offset, value = lambda _: "t", lambda _: 0, lambda self: self.at, lambda _: b"a:1"
class Consumer:
    def __init__(self, settings): self.batches = BATCHES
    def assign(self, places): print("# assigned", *[place.place[2] for place in places], flush=True)
    def close(self): pass
    def consume(self, *_):
        if self.batches: return [Message(offset) for offset in self.batches.pop(0)]
        os.kill(os.getpid(), signal.SIGTERM)
        return []
"""


class Reader(unittest.TestCase):
    """What the reader prints, beside a line for each assignment."""

    def said(self, *batches: list[int | None]) -> list[str]:
        """What it says of offsets that it is given; none is an error."""
        return self.said_in(self.enterContext(tempfile.TemporaryDirectory()), *batches)

    def said_in(self, directory: str, *batches: list[int | None]) -> list[str]:
        """The same where another one may have read before."""
        Path(directory, "confluent_kafka.py").write_text(FAKE_CONSUMER.replace("BATCHES", repr(list(batches))))
        program = Path(__file__).parent / "reader_confluent.py"
        done = subprocess.run(
            [sys.executable, str(program), directory, "b", "t", "1"],
            env={**os.environ, "PYTHONPATH": f"{directory}:{os.environ.get('PYTHONPATH', '')}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.splitlines()

    def test_it_tells_of_offsets_that_go_back(self) -> None:
        self.assertEqual(self.said([0, 1], [2]), ["# assigned 0", "# read all"])
        self.assertEqual(self.said([0, 1], [1, 2]), ["# assigned 0", "t-0 goes back from 2 to 1", "# read all"])

    def test_it_goes_on_behind_what_came_with_an_error(self) -> None:
        said = ["# assigned 0", "broken", "# assigned 2", "# read all"]
        self.assertEqual(self.said([0, None, 1], [2]), said)

    def test_it_goes_on_where_another_one_ended(self) -> None:
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.said_in(directory, [0, 1], [2])
        self.assertEqual(self.said_in(directory, [3]), ["# assigned 3", "# read all"])
        seen = list(accounts.read(accounts.path(Path(directory), accounts.of_reader("t"), 0)))
        self.assertEqual([offset for offset, _, _ in seen], [0, 1, 2, 3])


if __name__ == "__main__":
    unittest.main()
