"""Chunks of work on all cores: one thread per core, each with a chunk of its own.

Networks of this size leave cores idle when every small matrix product is shared out among them. Chunks are
independent of each other, so they are shared out instead; torch lets go of Python's lock while it computes. A
chunk is computed by one thread however many there are, so results do not depend on their number.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch

from bgdiff.progress import Progress

__all__ = ["for_each_chunk"]

_FINENESS = 1000


def for_each_chunk(
    work: Callable[[int, Progress], None],
    chunks: Sequence[tuple[int, int]],
    progress: Progress,
    what: str,
    *,
    device: str = "cpu",
) -> None:
    """Call ``work(index, report)`` for every chunk, several at a time.

    An exception or Ctrl-C stops the others at their next report and is raised again; chunks that were
    finished before stay finished.

    Args:
        work: computes and stores a chunk, and calls ``report(k, of)`` often.
        chunks: number and size of each.
        progress: told of all chunks together, by one thread at a time.
        what: plural of what chunks are made of, for the progress text.
        device: with anything but a CPU, chunks come one after the other.
    """
    cores = torch.get_num_threads()
    workers = min(cores, len(chunks)) if device == "cpu" else 1
    tally = _Tally(progress, [n for _, n in chunks], what)
    if workers <= 1:
        for position, (index, _) in enumerate(chunks):
            work(index, tally.reporter(position))
        return
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            futures = [
                pool.submit(work, index, tally.reporter(position))
                for position, (index, _) in enumerate(chunks)
            ]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                tally.stopped = True
                for future in futures:
                    future.cancel()
                raise
    finally:
        torch.set_num_threads(cores)


class _StoppedError(Exception):
    """Another chunk failed, or the user wants to stop."""


class _Tally:
    """Progress of all chunks together."""

    def __init__(self, progress: Progress, sizes: Sequence[int], what: str) -> None:
        self._progress, self._sizes, self._what = progress, sizes, what
        self._done = [0.0] * len(sizes)
        self._lock = threading.Lock()
        self.stopped = False

    def reporter(self, position: int) -> Progress:
        def report(k: int, of: int, text: str = "") -> None:
            if self.stopped:
                raise _StoppedError
            with self._lock:
                self._done[position] = self._sizes[position] * k / of
                done, total = sum(self._done), sum(self._sizes)
                text = f"{int(done)} of {total} {self._what}"
                self._progress(int(_FINENESS * done), _FINENESS * total, text)

        return report
