"""Kafka's own DumpLogSegments over every file of data directories: it must find nothing wrong.

dumplog.py DIRECTORY…     (KAFKA_LIBS names the directory with Kafka's jars)
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

# One JVM reads this many files: a command line is limited, and starting a JVM is what costs.
FILES_PER_RUN = 400
SUFFIXES = [".log", ".index", ".timeindex", ".snapshot"]
# The tool prints no payload, so a match is its own word. It calls every segment that does not begin at
# offset 0 non-consecutive ("-1 is followed by 20"): a gap counts only between two real offsets.
WRONG = re.compile(
    r"isvalid: false|timestamp mismatch|out of order|Mismatches in|^\s*\d+ is followed by|"
    r"Exception|corrupt|Unexpected|invalid bytes|does not match|not found",
    re.IGNORECASE,
)


def dump(files: list[Path]) -> str:
    """What the tool prints about these files, with errors."""
    libs = os.environ["KAFKA_LIBS"]
    command = ["java", "-Xmx1g", "-cp", f"{libs}/*", "org.apache.kafka.tools.DumpLogSegments"]
    command += ["--deep-iteration", "--files", ",".join(map(str, files))]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    text = done.stdout + done.stderr
    return text if done.returncode == 0 else f"{text}\nException: exit code {done.returncode}"


def check(directories: list[Path]) -> list[str]:
    """Complaints of the tool, with the file that each is about."""
    complaints: list[str] = []
    groups = []
    for suffix in SUFFIXES:
        # Snapshots of the metadata log have names and contents of their own.
        files = sorted(
            path
            for directory in directories
            for path in directory.rglob(f"*{suffix}")
            if path.name.removesuffix(suffix).isdigit()
            and "cluster_metadata" not in str(path)
            # A deleted partition's files are on their way out, as they were when it was deleted.
            and not path.parent.name.endswith("-delete")
        )
        # An index is preallocated: an empty one has nothing to say and the tool stumbles over it.
        files = [path for path in files if path.stat().st_size > 0 or suffix == ".log"]
        print(f"{len(files)} files *{suffix}")
        groups += [files[first : first + FILES_PER_RUN] for first in range(0, len(files), FILES_PER_RUN)]
    for files in groups:
        about = "?"
        for line in dump(files).splitlines():
            if line.startswith("Dumping "):
                about = line.removeprefix("Dumping ")
            elif WRONG.search(line):
                complaints.append(f"{about}: {line[:300]}")
    if not any(group for group in groups):
        complaints.append(f"no log file under {', '.join(map(str, directories))}")
    return complaints


def main() -> int:
    """Check the directories of the command line."""
    complaints = check([Path(argument) for argument in sys.argv[1:]])
    for complaint in complaints[:50]:
        print(f"not ok dump-log: {complaint}")
    if not complaints:
        print("ok dump-log")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
