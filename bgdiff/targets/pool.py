"""Batches shared out to worker processes, for evaluators that take one conformation at a time.

Rows do not know of each other, so results depend neither on the number of processes nor on how the rows
were shared out.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import ConfigError, WorkerError
from bgdiff.workers import become_worker, interrupts_blocked

__all__ = ["RowPool"]

Floats = NDArray[np.float64]
RowFunction = Callable[..., tuple[Floats, Floats | None]]

_MIN_CHUNK = 8  # rows; below it sending a chunk costs more than computing it
_MAX_CHUNK = 512
_CHUNKS_PER_PROCESS = 4  # so that no process idles while another finishes a large last chunk


class RowPool:
    """Calls ``evaluate(x, **options)`` in worker processes, a chunk of rows of ``x`` at a time.

    Workers are spawned (never forked: OpenMM and torch hold threads and locks), at the first batch that is
    worth it, and stay until :meth:`close`, the end of a ``with`` block, the end of the pool's life or that
    of this process, even by SIGKILL. Ctrl-C interrupts the caller, not the workers. After a worker has
    died, the next batch starts new ones. As with every use of ``multiprocessing`` by spawning, a script
    must keep what it does under ``if __name__ == "__main__":``.

    Args:
        evaluate: must pickle; gets float64 ``x`` ``(B, ...)`` and returns ``(energy (B,), force (B, ...))``,
            either of which may be None.
        processes: number of workers.

    Raises:
        ConfigError: ``processes`` is not a positive number.
    """

    def __init__(self, evaluate: RowFunction, processes: int) -> None:
        if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
            raise ConfigError(f"processes must be a whole number of at least 1, not {processes!r}")
        self.evaluate = evaluate
        self.processes = processes
        self._executor: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def __call__(self, x: Floats, **options: Any) -> tuple[Floats, Floats | None]:
        """Evaluate all rows; a batch too small to be worth sending is evaluated in this process.

        Raises:
            WorkerError: a worker died.
        """
        size = -(-len(x) // (self.processes * _CHUNKS_PER_PROCESS))
        size = min(max(size, _MIN_CHUNK), _MAX_CHUNK)
        if self.processes == 1 or len(x) <= size:
            return self.evaluate(x, **options)
        futures: list[Future[tuple[Floats, Floats | None]]] = []
        try:
            executor = self._started()
            with interrupts_blocked():  # the first submission starts the workers, which inherit the mask
                futures += [
                    executor.submit(_evaluate, x[start : start + size], options)
                    for start in range(0, len(x), size)
                ]
            parts = [future.result() for future in futures]
        except BrokenProcessPool as error:
            self.close()
            raise WorkerError(
                "a worker process that evaluates energies died (killed, out of memory, or a script without "
                'if __name__ == "__main__": around its work); try again, or with fewer processes'
            ) from error
        finally:
            for future in futures:
                future.cancel()  # after an exception: what has not begun need not
        energies, forces = zip(*parts, strict=True)
        return np.concatenate(energies), None if forces[0] is None else np.concatenate(forces)

    def close(self) -> None:
        """Stop the workers and wait until they are gone; the next batch would start new ones."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ProcessPoolExecutor(
                    self.processes,
                    mp_context=get_context("spawn"),
                    initializer=_start_worker,
                    initargs=(self.evaluate,),
                )
            return self._executor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"evaluate": self.evaluate, "processes": self.processes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


_worker_evaluate: RowFunction | None = None  # of a worker process; this process has its own in RowPool


def _start_worker(evaluate: RowFunction) -> None:
    global _worker_evaluate
    become_worker()
    _worker_evaluate = evaluate


def _evaluate(x: Floats, options: dict[str, Any]) -> tuple[Floats, Floats | None]:
    assert _worker_evaluate is not None
    return _worker_evaluate(x, **options)
