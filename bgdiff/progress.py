"""Progress as the algorithms see it: a callback. Who shows it, and how, is the command line's business."""

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Called with the work done so far, the total, and a short text about the current state."""

    def __call__(self, done: int, total: int, text: str = "", /) -> None: ...


def silent(done: int, total: int, text: str = "", /) -> None:
    """Show nothing."""
