"""Cases of one suite: run each, print `ok NAME` or `not ok NAME: why`, and tell by the exit code."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable

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


def run(cases: list[tuple[str, Case]], only: str = "") -> int:
    """Run the cases whose name contains `only`; the result is the exit code."""
    failed_count = 0
    ran_count = 0
    for name, case in cases:
        if only not in name:
            continue
        ran_count += 1
        started = time.monotonic()
        try:
            case()
        except Skip as reason:
            print(f"skip {name}: {reason}", flush=True)
        except Exception as error:
            failed_count += 1
            why = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"not ok {name}: {why}", flush=True)
            traceback.print_exc(file=sys.stderr)
        else:
            print(f"ok {name} ({time.monotonic() - started:.1f} s)", flush=True)
    if ran_count == 0:
        print(f"not ok suite: no case's name contains {only!r}", flush=True)
        return 1
    return 1 if failed_count else 0
