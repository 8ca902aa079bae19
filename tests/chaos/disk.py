"""A file system of one node's own, which can be made full."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from network import Unavailable, quietly, run

# What a node may keep in memory in a long run.
DISK_BYTES = 8 << 30
# What is left free of a full disk: not even a page, since sizes are rounded up.
PAGE_BYTES = 4096


class SmallDisk:
    """A tmpfs in the place of a node's data directory. It is filled by taking away what is free."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> SmallDisk:
        self.directory.mkdir()
        try:
            run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self.directory))
        except (OSError, subprocess.TimeoutExpired) as error:
            self.directory.rmdir()
            raise Unavailable(str(error)) from error
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # What is kept to be looked at is kept here too.
        if kind is None or not os.environ.get("KEEP_CLUSTERS"):
            quietly("umount", "--lazy", str(self.directory))

    def resize(self, size_bytes: int) -> None:
        """Another size, at once."""
        run("mount", "-o", f"remount,size={size_bytes}", str(self.directory))

    def fill(self) -> None:
        """No room is left."""
        # Files may grow between the look and the change, which then is refused.
        for _ in range(50):
            seen = os.statvfs(self.directory)
            used_bytes = (seen.f_blocks - seen.f_bfree) * seen.f_frsize
            try:
                self.resize(used_bytes + PAGE_BYTES)
                return
            except OSError:
                continue
        raise AssertionError("the disk does not become full")

    def empty(self) -> None:
        """There is room again."""
        self.resize(DISK_BYTES)
