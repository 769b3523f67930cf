"""Markov chains advanced chunk by chunk, in any number of processes, surviving interruption.

A chunk is a pure function of (chain, chunk number, state at its start): it makes its own random numbers
from the seed and these two numbers. Chains therefore do not depend on how many processes share the work
or on how often it was interrupted.
"""

import json
import logging
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import ConfigError, StorageError, WorkerError
from bgdiff.io import atomic_path, make_directory, read_json, write_json
from bgdiff.progress import Progress, silent
from bgdiff.workers import become_worker, interrupts_blocked

__all__ = ["Arrays", "ChainTask", "concatenate", "discard_chunks", "run_chains"]

log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]


class ChainTask(Protocol):
    """A family of chains; must pickle, because chunks run in other processes."""

    @property
    def n_chains(self) -> int: ...

    @property
    def n_chunks(self) -> int:
        """Chunks in each chain."""
        ...

    def start(self, chain: int) -> Arrays:
        """Return the state a chain starts from, equilibrated."""
        ...

    def advance(self, chain: int, chunk: int, state: Arrays) -> tuple[Arrays, Arrays]:
        """Return the state after a chunk and what the chunk recorded."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Return, as JSON, everything the chains depend on."""
        ...


def run_chains(
    task: ChainTask, directory: Path, processes: int = 1, progress: Progress = silent
) -> list[list[Arrays]]:
    """Run every chain to its end and return its records, ``[chain][chunk]``.

    Each finished chunk is a file in ``directory``, and so is the last state of each chain; chunks that are
    there already are not run again. A chunk that records nothing (equilibration) returns an empty record,
    which is left out. An exception, such as that of Ctrl-C, stops the other processes at once.

    Raises:
        ConfigError: ``directory`` holds chunks of other settings, or ``processes`` is not positive.
        StorageError: it cannot be written.
    """
    if processes < 1:
        raise ConfigError(f"processes must be at least 1, not {processes}")
    _claim(directory, task.fingerprint())
    finished = [_finished_chunks(directory, chain, task.n_chunks) for chain in range(task.n_chains)]
    total = task.n_chains * task.n_chunks
    progress(sum(finished), total, "")
    processes = min(processes, task.n_chains)
    waiting = deque(range(task.n_chains))
    running: dict[Future[tuple[Arrays, Arrays]], int] = {}
    with _executor(processes) as pool:
        while waiting or running:
            while waiting and len(running) < processes:
                chain = waiting.popleft()
                if (chunk := finished[chain]) < task.n_chunks:
                    state = _load(_state_path(directory, chain, chunk)) if chunk else None
                    with interrupts_blocked() if processes > 1 else nullcontext():
                        running[pool.submit(_advance, task, chain, chunk, state)] = chain
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                chain = running.pop(future)
                _save(directory, chain, finished[chain], *future.result())
                finished[chain] += 1
                progress(sum(finished), total, "")
                waiting.append(chain)
    records = (
        [_load(_record_path(directory, chain, chunk)) for chunk in range(task.n_chunks)]
        for chain in range(task.n_chains)
    )
    return [[record for record in chain if record] for chain in records]


def discard_chunks(directory: Path) -> None:
    """Remove the files of :func:`run_chains` once their content is stored elsewhere."""
    shutil.rmtree(directory, ignore_errors=True)


def _advance(task: ChainTask, chain: int, chunk: int, state: Arrays | None) -> tuple[Arrays, Arrays]:
    return task.advance(chain, chunk, task.start(chain) if state is None else state)


def _claim(directory: Path, fingerprint: dict[str, Any]) -> None:
    path = make_directory(directory) / "settings.json"
    fingerprint = json.loads(json.dumps(fingerprint), parse_constant=str)  # JSON lacks the infinities
    if not path.exists():
        write_json(path, fingerprint)
        return
    found = read_json(path)
    if found != fingerprint:
        changed = sorted(key for key in {*found, *fingerprint} if found.get(key) != fingerprint.get(key))
        raise ConfigError(
            f"{directory}: holds an unfinished calculation with other settings ({', '.join(changed)}); "
            "delete it or choose another --out"
        )
    log.info("%s: resuming an unfinished calculation", directory)


def _record_path(directory: Path, chain: int, chunk: int) -> Path:
    return directory / f"chain{chain:03d}-chunk{chunk:05d}.npz"


def _state_path(directory: Path, chain: int, chunk: int) -> Path:
    """Where the state at the start of a chunk lies."""
    return directory / f"chain{chain:03d}-state{chunk:05d}.npz"


def _finished_chunks(directory: Path, chain: int, n_chunks: int) -> int:
    for chunk in range(n_chunks):
        if not _record_path(directory, chain, chunk).exists():
            return chunk
    return n_chunks


def _save(directory: Path, chain: int, chunk: int, state: Arrays, record: Arrays) -> None:
    """Store a finished chunk. Its record comes last but one: where it exists, so does the state after it."""
    for path, arrays in (
        (_state_path(directory, chain, chunk + 1), state),
        (_record_path(directory, chain, chunk), record),
    ):
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    _state_path(directory, chain, chunk).unlink(missing_ok=True)


def _load(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as content:
            return {key: content[key] for key in content.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise StorageError(
            f"{path}: missing or corrupt ({error}); delete {path.parent} and run the command again"
        ) from error


class _Inline:
    """Executor interface that works in this process, for ``processes=1``: nothing to start or to stop."""

    def submit(self, function: Any, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future


@contextmanager
def _executor(processes: int) -> Iterator[Any]:
    if processes == 1:
        yield _Inline()
        return
    others = set(active_children())
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise WorkerError(
            "a process that simulates died (killed, out of memory, or a script without "
            'if __name__ == "__main__": around its work); the same call continues what it did'
        ) from error
    except BaseException:
        for worker in set(active_children()) - others:
            worker.terminate()  # a chunk can take long, and what it would return is not wanted any more
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    become_worker()
    import torch

    torch.set_num_threads(1)  # the processes share the cores


def concatenate(records: Sequence[Arrays], key: str) -> NDArray[Any]:
    """Join one recorded array of consecutive chunks along its first axis."""
    return np.concatenate([record[key] for record in records])
