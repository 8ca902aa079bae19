"""Cases of one suite: run each, print `ok NAME` or `not ok NAME: why`, and tell by the exit code."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Case = Callable[[], None]


class Skip(Exception):
    """Raised by a case that the client under test cannot run at all; its text says why."""


def expect(what: str, actual: object, wanted: object) -> None:
    """Fail the case unless both are equal; long values are cut so that the line stays readable."""
    if actual != wanted:
        raise AssertionError(f"{what}: got {_cut(actual)}, want {_cut(wanted)}")


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


def run(cases: list[tuple[str, Case]], only: str = "", at_once: int = 1) -> int:
    """Run the cases whose name contains `only`, so many at once; the result is the exit code."""
    chosen = [(name, case) for name, case in cases if only in name]
    if not chosen:
        print(f"not ok suite: no case's name contains {only!r}", flush=True)
        return 1
    with ThreadPoolExecutor(at_once) as threads:
        passed = list(threads.map(lambda named: _passes(*named), chosen))
    return 0 if all(passed) else 1


def _passes(name: str, case: Case) -> bool:
    started = time.monotonic()
    try:
        case()
    except Skip as reason:
        print(f"skip {name}: {reason}", flush=True)
    except Exception as error:
        # Whatever a client throws is this case's failure.
        why = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"not ok {name}: {why}", flush=True)
        traceback.print_exc(file=sys.stderr)
        return False
    else:
        print(f"ok {name} ({time.monotonic() - started:.1f} s)", flush=True)
    return True
