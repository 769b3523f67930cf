"""What tests of worker processes share: which processes live, and whose children they are."""

import time
from pathlib import Path

import pytest

sees_processes = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks at processes in /proc"
)


def _fields(process: int) -> list[str]:
    """State, parent and so on of a process; empty if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_running(process: int) -> bool:
    return _fields(process)[:1] not in ([], ["Z"])


def children(process: int) -> list[int]:
    """Ids of the running processes that ``process`` has started."""
    ids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [child for child in ids if _fields(child)[1:2] == [str(process)] and is_running(child)]


def wait_until(condition, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())
