"""Rates: jobs take short turns and equal shares; the best and the median turn are told apart."""

import pytest

from bgdiff.timing import interleaved_rates


class Machine:
    """A clock that only work moves; work takes three times as long while others are busy."""

    def __init__(self, busy: tuple[float, float] = (0.0, 0.0)) -> None:
        self.now = 0.0
        self.log: list[str] = []
        self.busy = busy

    def job(self, name: str, seconds: float):
        def call() -> None:
            self.now += seconds * (3.0 if self.busy[0] <= self.now < self.busy[1] else 1.0)
            self.log.append(name)

        return call

    def clock(self) -> float:
        return self.now


def test_rates_are_work_per_second_whatever_a_call_takes():
    machine = Machine()
    jobs = {"quick": (machine.job("quick", 1e-4), 512.0), "slow": (machine.job("slow", 5.0), 2.0)}
    rates = interleaved_rates(jobs, 2.0, clock=machine.clock)
    assert rates["quick"].best == pytest.approx(512 / 1e-4)
    assert rates["quick"].median == pytest.approx(512 / 1e-4)
    assert rates["slow"].best == pytest.approx(2 / 5.0)
    assert rates["slow"].turns == 3  # though one turn alone takes longer than its share
    assert machine.log.count("slow") == 1 + 1 + 3
    assert rates["quick"].turns == pytest.approx(1.0 / 0.0032, rel=0.01)  # 32 calls last for 2 ms


def test_jobs_take_turns():
    machine = Machine()
    jobs = {name: (machine.job(name, 1 / 64), 1.0) for name in ("a", "b")}
    interleaved_rates(jobs, 10 / 64, clock=machine.clock)
    assert machine.log == ["a"] * 2 + ["b"] * 2 + ["a", "b"] * 5


def test_a_busy_machine_shows_in_the_median():
    machine = Machine(busy=(0.04, 0.8))
    jobs = {name: (machine.job(name, 0.01), 1.0) for name in ("a", "b")}
    for rate in interleaved_rates(jobs, 1.0, clock=machine.clock).values():
        assert rate.best == pytest.approx(100)
        assert rate.median == pytest.approx(100 / 3)
