"""Chunks on several threads: each once, the same bits as on one, and stopped together."""

import threading
import time

import pytest
import torch

from bgdiff.models.base import log_density_and_score
from bgdiff.models.ebm import EnergyNetwork, NetworkShape
from bgdiff.parallel import for_each_chunk
from bgdiff.progress import Progress, silent


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


CHUNKS = [(index, 5 + index) for index in (4, 0, 7, 2, 9, 1)]


def test_every_chunk_is_worked_on_once_and_progress_ends_complete(threads: int) -> None:
    seen: list[int] = []
    told: list[tuple[int, int, str]] = []

    def work(index: int, report: Progress) -> None:
        assert torch.get_num_threads() == 1
        for k in range(10):
            report(k + 1, 10)
        seen.append(index)

    for_each_chunk(work, CHUNKS, lambda *now: told.append(now), "walks")
    assert sorted(seen) == sorted(index for index, _ in CHUNKS)
    total = sum(n for _, n in CHUNKS)
    done = [now[0] / now[1] for now in told]
    assert done == sorted(done)
    assert done[-1] == 1
    assert told[-1][2] == f"{total} of {total} walks"
    assert torch.get_num_threads() == threads


def test_results_are_the_same_bits_on_any_number_of_threads() -> None:
    periodic = torch.tensor([False] * 20 + [True] * 3)
    torch.manual_seed(0)
    model = EnergyNetwork(periodic, 0.02, 10.0, NetworkShape(width=64, depth=2)).requires_grad_(False)
    torch.nn.init.normal_(model.leave.weight, std=0.1)

    def scores(n_threads: int) -> dict[int, torch.Tensor]:
        found = {}

        def work(index: int, report: Progress) -> None:
            z = torch.randn(300, 23, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
            found[index] = log_density_and_score(model, z, torch.tensor([0.3]))[1]
            report(1, 1)

        before = torch.get_num_threads()
        torch.set_num_threads(n_threads)
        try:
            for_each_chunk(work, CHUNKS, silent, "walks")
        finally:
            torch.set_num_threads(before)
        return found

    one, three = scores(1), scores(3)
    assert all(torch.equal(one[index], three[index]) for index in one)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_in_one_chunk_stops_all_and_is_raised(threads: int, error: type[BaseException]) -> None:
    finished: list[int] = []
    entered = threading.Event()

    def work(index: int, report: Progress) -> None:
        if index == CHUNKS[1][0]:
            entered.wait(5 if threads > 1 else 0)
            raise error("here")
        entered.set()
        for k in range(1000):
            time.sleep(0.002 if threads > 1 else 0)
            report(k + 1, 1000)
        finished.append(index)

    started = time.monotonic()
    with pytest.raises(error, match="here"):
        for_each_chunk(work, CHUNKS, silent, "walks")
    assert time.monotonic() - started < 1.9  # a chunk takes two seconds
    assert finished == ([] if threads > 1 else [CHUNKS[0][0]])
    assert threading.active_count() <= 2


def test_progress_that_raises_stops_the_work(threads: int) -> None:
    def tell(done: int, total: int, text: str = "") -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    def work(index: int, report: Progress) -> None:
        for k in range(50):
            report(k + 1, 50)

    with pytest.raises(KeyboardInterrupt):
        for_each_chunk(work, CHUNKS, tell, "walks")


def test_other_devices_and_no_chunks() -> None:
    names = set()
    for_each_chunk(lambda *_: names.add(threading.current_thread().name), CHUNKS, silent, "", device="cuda")
    for_each_chunk(lambda *_: pytest.fail("nothing to do"), [], silent, "")
    assert names == {threading.current_thread().name}
