"""Rates: jobs take turns; the best and the median round are told apart."""

import pytest

from bgdiff.timing import interleaved_rates


class Machine:
    """A clock that only work moves; work is three times slower while others are ``busy``."""

    def __init__(self, busy: range = range(0)) -> None:
        self.now = 0.0
        self.log: list[str] = []
        self.busy = busy

    def job(self, name: str, seconds: float):
        def call() -> None:
            self.now += seconds * (3.0 if len(self.log) in self.busy else 1.0)
            self.log.append(name)

        return call

    def clock(self) -> float:
        return self.now


def test_rates_are_work_per_second_whatever_the_share_of_time():
    machine, seen = Machine(), []
    jobs = {"quick": (machine.job("quick", 0.001), 512.0), "slow": (machine.job("slow", 5.0), 2.0)}
    rates = interleaved_rates(
        jobs, 0.02, rounds=5, clock=machine.clock, progress=lambda *state: seen.append(state[:2])
    )
    assert rates["quick"].best == pytest.approx(512 / 0.001)
    assert rates["slow"].best == pytest.approx(2 / 5.0)
    assert machine.log.count("slow") == 2 + 5  # once per round, though it takes longer than its share
    assert machine.log.count("quick") == 2 + 5 * 2
    assert seen == [(turn, 5) for turn in range(1, 6)]


def test_jobs_take_turns_and_a_busy_machine_shows_in_the_median():
    machine = Machine(busy=range(6, 12))  # the first three of five rounds; 0 to 3 are the warm-up
    jobs = {name: (machine.job(name, 0.01), 1.0) for name in ("a", "b")}
    rates = interleaved_rates(jobs, 0.05, rounds=5, clock=machine.clock)
    assert machine.log == ["a"] * 2 + ["b"] * 2 + ["a", "b"] * 5
    for rate in rates.values():
        assert rate.best == pytest.approx(100)
        assert rate.median == pytest.approx(100 / 3)
        assert rate.rounds == 5
