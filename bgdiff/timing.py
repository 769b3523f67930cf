"""Rates that can be compared on a machine that others use too."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Rate", "interleaved_rates"]


@dataclass(frozen=True)
class Rate:
    """Work per second over many short turns: the best turn, the median one, and how many there were.

    Neighbours on the machine only ever slow a turn down, and a turn is shorter than the time a busy operating
    system lets a process run, so the best is what the code can do; the median says how busy it was.
    """

    best: float
    median: float
    turns: int


def interleaved_rates(
    jobs: Mapping[str, tuple[Callable[[], object], float]],
    seconds: float,
    *,
    turn: float = 0.002,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Rate]:
    """Measure how fast jobs run, in short turns, always that of the job which has had the least time.

    Args:
        jobs: by name, a function and the work that one call of it does (such as rows of a batch).
        seconds: about what the whole measurement may take, shared evenly; each job has three turns at least.
        turn: least duration of a turn in seconds; a short function is called repeatedly.

    Returns:
        Rates in work per second, by name.
    """
    repeats = {}
    for name, (call, _) in jobs.items():
        call()  # what happens once (contexts, buffers, caches of the processor) is not measured
        repeats[name] = _repeats(call, turn, clock)
    spent = dict.fromkeys(jobs, 0.0)
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    share = seconds / len(jobs)
    while waiting := [name for name in jobs if spent[name] < share or len(rates[name]) < 3]:
        name = min(waiting, key=lambda name: spent[name])
        call, work = jobs[name]
        started = clock()
        for _ in range(repeats[name]):
            call()
        took = clock() - started
        spent[name] += took
        rates[name].append(work * repeats[name] / took)
    return {name: Rate(max(found), statistics.median(found), len(found)) for name, found in rates.items()}


def _repeats(call: Callable[[], object], turn: float, clock: Callable[[], float]) -> int:
    """How many calls last for a turn."""
    repeats = 1
    while True:
        started = clock()
        for _ in range(repeats):
            call()
        if clock() - started >= turn:
            return repeats
        repeats *= 2
