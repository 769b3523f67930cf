"""Markov chains advanced chunk by chunk, in any number of processes, surviving interruption.

A chunk is a pure function of (chain, chunk number, state at its start): it makes its own random numbers
from the seed and these two numbers. Chains therefore do not depend on how many processes share the work
or on how often it was interrupted.
"""

import json
import logging
import shutil
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import ConfigError, StorageError
from bgdiff.io import atomic_path, make_directory, read_json, write_json
from bgdiff.progress import Progress, silent

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

    Each finished chunk is a file in ``directory``; chunks that are there already are not run again.

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
                    state = _load(directory, chain, chunk - 1)[0] if chunk else None
                    running[pool.submit(_advance, task, chain, chunk, state)] = chain
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                chain = running.pop(future)
                _save(directory, chain, finished[chain], *future.result())
                finished[chain] += 1
                progress(sum(finished), total, "")
                waiting.append(chain)
    return [
        [_load(directory, chain, chunk)[1] for chunk in range(task.n_chunks)]
        for chain in range(task.n_chains)
    ]


def discard_chunks(directory: Path) -> None:
    """Remove the files of :func:`run_chains` once their content is stored elsewhere."""
    shutil.rmtree(directory, ignore_errors=True)


def _advance(task: ChainTask, chain: int, chunk: int, state: Arrays | None) -> tuple[Arrays, Arrays]:
    return task.advance(chain, chunk, task.start(chain) if state is None else state)


def _claim(directory: Path, fingerprint: dict[str, Any]) -> None:
    path = make_directory(directory) / "settings.json"
    fingerprint = json.loads(json.dumps(fingerprint))
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


def _chunk_path(directory: Path, chain: int, chunk: int) -> Path:
    return directory / f"chain{chain:03d}-chunk{chunk:05d}.npz"


def _finished_chunks(directory: Path, chain: int, n_chunks: int) -> int:
    for chunk in range(n_chunks):
        if not _chunk_path(directory, chain, chunk).exists():
            return chunk
    return n_chunks


def _save(directory: Path, chain: int, chunk: int, state: Arrays, record: Arrays) -> None:
    arrays = {f"state_{key}": value for key, value in state.items()}
    arrays |= {f"record_{key}": value for key, value in record.items()}
    with atomic_path(_chunk_path(directory, chain, chunk)) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def _load(directory: Path, chain: int, chunk: int) -> tuple[Arrays, Arrays]:
    path = _chunk_path(directory, chain, chunk)
    try:
        with np.load(path, allow_pickle=False) as content:
            parts = [
                {key.removeprefix(prefix): content[key] for key in content.files if key.startswith(prefix)}
                for prefix in ("state_", "record_")
            ]
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise StorageError(f"{path}: corrupt ({error}); delete it and run the command again") from error
    return parts[0], parts[1]


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
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_leave_interrupts)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def concatenate(records: Sequence[Arrays], key: str) -> NDArray[Any]:
    """Join one recorded array of consecutive chunks along its first axis."""
    return np.concatenate([record[key] for record in records])
