"""Cases of one suite: run each, print `ok NAME` or `not ok NAME: why`, and tell by the exit code."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Case = Callable[[], None]
# What test runners take for "could not be run here", and what shells tell of a process that SIGTERM has ended.
ALL_SKIPPED, TERMINATED = 77, 143
PASSED, SKIPPED, FAILED = "passed", "skipped", "failed"


class Skip(Exception):
    """Raised by a case that the client under test cannot run at all; its text says why."""


def expect(what: str, actual: object, wanted: object) -> None:
    """Fail the case unless both are equal; long values are cut so that the line stays readable."""
    if actual != wanted:
        raise AssertionError(f"{what}: got {_cut(actual)}, want {_cut(wanted)}")


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


def unwind_when_terminated() -> None:
    """SIGTERM, as of a time limit, becomes an exception: what a case has started ends with it."""

    def end(*_: object) -> None:
        # `timeout` signals the process and then its group. A second one would cut short what takes things away.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, end)


def run(cases: list[tuple[str, Case]], only: str = "", at_once: int = 1) -> int:
    """Run the cases whose name contains `only`, so many at once; the result is the exit code."""
    chosen = [(name, case) for name, case in cases if only in name]
    if not chosen:
        print(f"not ok suite: no case's name contains {only!r}", flush=True)
        return 1
    if at_once == 1:
        # On this thread, where signals arrive.
        unwind_when_terminated()
        outcomes = [_outcome(name, case) for name, case in chosen]
    else:
        with ThreadPoolExecutor(at_once) as threads:
            outcomes = list(threads.map(lambda named: _outcome(*named), chosen))
    if FAILED in outcomes:
        return 1
    return 0 if PASSED in outcomes else ALL_SKIPPED


def _outcome(name: str, case: Case) -> str:
    started = time.monotonic()
    try:
        case()
    except Skip as reason:
        print(f"skip {name}: {reason}", flush=True)
        return SKIPPED
    except Exception as error:
        # Whatever a client throws is this case's failure.
        why = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"not ok {name}: {why}", flush=True)
        traceback.print_exc(file=sys.stderr)
        return FAILED
    print(f"ok {name} ({time.monotonic() - started:.1f} s)", flush=True)
    return PASSED
