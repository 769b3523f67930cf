"""Manners of worker processes: they leave Ctrl-C to the parent, and end with it however it ends."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process

__all__ = ["become_worker", "interrupts_blocked"]


def become_worker() -> None:
    """Call first in a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Hold Ctrl-C back while workers start: children inherit that, and are not hit before they ignore it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _follow_parent() -> None:
    """End with the parent: a killed one cannot tell its workers to stop."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
