"""A client that has locked itself up is told from one that waits, and another goes on where it was."""

from __future__ import annotations

import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import accounts

import clients

from cluster import eventually

# Threads with the names of librdkafka's, each of which holds a lock and wants another one: the next thread's, or one
# that is free after a while. `LIMIT` is how long they wait for it, or -1.
THREADS = """
import ctypes, signal, sys, threading, time
names, limit = sys.argv[1].split(","), float(sys.argv[2])
locks, held = [threading.Lock() for _ in names], threading.Barrier(len(names) + 1)
def work(index):
    ctypes.CDLL(None).prctl(15, names[index].encode())
    with locks[index]:
        held.wait()
        while not locks[(index + 1) % len(locks)].acquire(timeout=limit): pass
for index in range(len(names)): threading.Thread(target=work, args=(index,), daemon=True).start()
held.wait()
print("# all held", flush=True)
time.sleep(60)
"""


class LockedUp(unittest.TestCase):
    """Deadlocks within a client."""

    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.object(clients, "LOCKED_S", 0.5))
        self.enterContext(mock.patch.object(clients, "START_S", 0.0))

    def client(self, names: str, limit_s: float) -> clients.Client:
        """One whose threads have these names and all wait."""
        client = clients.Client("it", [sys.executable, "-c", THREADS, names, str(limit_s)], self.directory)
        self.addCleanup(client.kill)
        eventually("all hold a lock", lambda: "# all held" in client.path.read_text())
        time.sleep(0.1)
        return client

    def test_two_threads_that_wait_for_ever(self) -> None:
        self.assertTrue(self.client("rdk:main,rdk:broker1", -1).is_locked_up())

    def test_threads_that_wait_for_something_to_do(self) -> None:
        self.assertFalse(self.client("rdk:main,rdk:broker1", 0.05).is_locked_up())
        self.assertFalse(self.client("rdk:main,rdk:broker1", 100).is_locked_up())

    def test_threads_of_somebody_else(self) -> None:
        self.assertFalse(self.client("rdk:main,application", -1).is_locked_up())
        self.assertFalse(self.client("rdk:broker1,rdk:broker2", -1).is_locked_up())

    def test_one_that_has_ended(self) -> None:
        client = self.client("rdk:main,rdk:broker1", -1)
        client.kill()
        self.assertFalse(client.is_locked_up())

    def test_who_waits_for_its_end_is_told(self) -> None:
        client = self.client("rdk:main,rdk:broker1", -1)
        with self.assertRaises(clients.LockedUpError):
            client.wait()
        # One that only waits does not end either, and that is not its own doing.
        other = self.client("rdk:main,rdk:broker1", 100)
        with mock.patch.object(clients, "END_S_MAX", 1), self.assertRaisesRegex(AssertionError, "it does not end"):
            other.wait()

    def test_another_one_goes_on(self) -> None:
        client = self.client("rdk:main,rdk:broker1", -1)
        heir = client.replace()
        self.addCleanup(heir.kill)
        self.assertIsNotNone(client.process.poll())
        self.assertIsNone(heir.process.poll())
        eventually("the heir's words follow", lambda: heir.path.read_text().count("# all held") == 2)


class Heirs(unittest.TestCase):
    """Accounts that another one goes on with."""

    def test_an_entry_that_was_being_written_is_read_again(self) -> None:
        directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        first, offsets = accounts.Accounts.of_heir(directory, "it", 3)
        self.assertEqual(offsets, [0, 0, 0])
        first.write(0, 7, 70, 1)
        first.write(0, 8, 80, 2)
        first.write(1, 3, 30, 3)
        first.close()
        place = accounts.path(directory, "it", 0)
        place.write_bytes(place.read_bytes()[:-1])
        second, offsets = accounts.Accounts.of_heir(directory, "it", 3)
        self.assertEqual(offsets, [8, 4, 0])
        second.write(0, 8, 80, 4)
        second.close()
        self.assertEqual(list(accounts.read(place)), [(7, 70, 1), (8, 80, 4)])


if __name__ == "__main__":
    unittest.main()
