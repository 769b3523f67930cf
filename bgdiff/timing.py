"""Rates that can be compared on a machine that others use too."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bgdiff.progress import Progress, silent

__all__ = ["Rate", "interleaved_rates"]


@dataclass(frozen=True)
class Rate:
    """Work per second over several rounds: the best round, the median one, and how many there were.

    Neighbours on the machine only ever slow a round down, so the best is nearest to what the code can do;
    the median says how much to trust it.
    """

    best: float
    median: float
    rounds: int


def interleaved_rates(
    jobs: Mapping[str, tuple[Callable[[], object], float]],
    seconds: float,
    *,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
    progress: Progress = silent,
) -> dict[str, Rate]:
    """Measure how fast jobs run, taking turns, so that a busy moment of the machine hits all of them.

    Args:
        jobs: by name, a function and the work that one call of it does (such as rows of a batch).
        seconds: about what the whole measurement may take; each job runs at least once per round.
        rounds: turns of each job; each repeats its function for its share of the time.

    Returns:
        Rates in work per second, by name.
    """
    repeats = {}
    share = seconds / (rounds * len(jobs))
    for name, (call, _) in jobs.items():
        call()  # what happens once (contexts, buffers, caches of the processor) is not measured
        started = clock()
        call()
        took = clock() - started
        repeats[name] = max(1, round(share / took)) if took > 0 else 1000
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds):
        for name, (call, work) in jobs.items():
            started = clock()
            for _ in range(repeats[name]):
                call()
            found[name].append(work * repeats[name] / (clock() - started))
        progress(turn + 1, rounds)
    return {name: Rate(max(rates), statistics.median(rates), rounds) for name, rates in found.items()}
