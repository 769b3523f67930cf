"""Path BAR by region: against pymbar, against known integrals, and its errors over 200 repetitions."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from checks import assert_standard, seeded
from ladders import ModelTarget, torus_and_plane
from test_smc import Lopsided

from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy.bennett import bar
from bgdiff.free_energy.estimate import EmptyBasinError
from bgdiff.free_energy.importance import free_energy_difference, log_z
from bgdiff.free_energy.paths import ELSEWHERE, BidirectionalPaths, Walks
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.paths import Ladder, measure_moments

MODEL = torus_and_plane()
TARGET = ModelTarget(MODEL, 3.7)
N_DOWN, N_UP, REPEATS = 250, 150, 200
NAMES = ("left", "right")


@cache
def ladder() -> Ladder:
    """A model with the weights of the modes wrong by e², on few rungs."""
    model, sigma = Lopsided(), noise_levels(10, 0.15, 7.0)
    return Ladder(model, sigma, measure_moments(model, sigma, MODEL.sample(4000, seeded(1)), seeded(2)))


def region(z: torch.Tensor) -> np.ndarray:
    """0 on the left, 1 on the right, -1 in a strip between them that is all but empty."""
    x = z[:, 0].numpy()
    return np.where(x < -0.3, 0, np.where(x > -0.1, 1, -1))


@cache
def walks() -> tuple[Walks, Walks]:
    """REPEATS times N_DOWN walks down and N_UP up; seven in ten data are on the left, where 0.3 belong."""
    down = ladder().walk_down(REPEATS * N_DOWN, seeded(13))
    pool = MODEL.sample(300_000, seeded(14))
    at = region(pool)
    parts = []
    for number, share in ((0, 0.7), (1, 0.28), (-1, 0.02)):
        parts.append(pool[np.flatnonzero(at == number)[: round(share * REPEATS * N_UP)]])
    z = torch.cat(parts)
    z = z[torch.randperm(len(z), generator=seeded(15))]
    up = ladder().walk_up(z, seeded(16))
    return tuple(  # type: ignore[return-value]
        Walks((TARGET.log_density(one.z) + one.log_ratio).numpy(), region(one.z)) for one in (down, up)
    )


@cache
def truth() -> dict[str, float]:
    z = MODEL.sample(4_000_000, seeded(7))
    share = np.bincount(region(z) + 1, minlength=3) / len(z)
    return {name: 3.7 + math.log(share[i]) for i, name in ((0, ELSEWHERE), (1, "left"), (2, "right"))}


def part(one: Walks, i: int, n: int) -> Walks:
    rows = slice(i * n, (i + 1) * n)
    return Walks(np.asarray(one.log_weight)[rows], np.asarray(one.region)[rows])


def test_one_region_is_bennetts_acceptance_ratio() -> None:
    down, up = (part(one, 0, 500) for one in walks())
    down, up = (Walks(one.log_weight, np.zeros(500, dtype=int)) for one in (down, up))
    ours = BidirectionalPaths(down, up, ["all"], bootstrap=0)
    every = np.arange(500)  # every sample its own unit: errors that do not ask who drew the data
    theirs = bar(
        -np.asarray(down.log_weight), np.asarray(up.log_weight), forward_unit=every, reverse_unit=every
    )
    assert abs(ours.log_z().value + theirs.value) < 1e-6
    assert abs(ours.region("all").value + theirs.value) < 1e-6
    estimate = ours.region("all")
    assert estimate.overlap == pytest.approx(theirs.overlap, abs=1e-6)
    assert estimate.diagnostics["forward"] == pytest.approx(-theirs.diagnostics["forward"], abs=1e-9)
    assert estimate.diagnostics["reverse"] == pytest.approx(-theirs.diagnostics["reverse"], abs=1e-9)
    assert estimate.std_error == pytest.approx(theirs.std_error, rel=1e-5)


def test_walks_that_end_elsewhere_are_infinite_work() -> None:
    down, up = (part(one, 0, 2000) for one in walks())
    ours = BidirectionalPaths(down, up, NAMES, bootstrap=0)
    for number, name in enumerate(NAMES):
        work = np.where(np.asarray(down.region) == number, -np.asarray(down.log_weight), np.inf)
        theirs = bar(work, np.asarray(up.log_weight)[np.asarray(up.region) == number])
        assert abs(ours.region(name).value + theirs.value) < 1e-6
        assert ours.region(name).std_error == pytest.approx(float(theirs.std_error), rel=0.1)
    total = np.logaddexp.reduce([ours.region(name).value for name in (*NAMES, ELSEWHERE)])
    assert ours.log_z().value == pytest.approx(total, abs=1e-9)


def test_z_scores_are_standard() -> None:
    """The data are in the wrong proportion, the model too; values and errors are right all the same."""
    down, up = walks()
    wanted = truth()
    scores: dict[str, list[float]] = {}
    for i in range(REPEATS):
        found = BidirectionalPaths(part(down, i, N_DOWN), part(up, i, N_UP), NAMES, bootstrap=0)
        estimates = {
            "log Z": (found.log_z(), 3.7),
            "left": (found.region("left"), wanted["left"]),
            "right": (found.region("right"), wanted["right"]),
            "difference": (found.difference("left", "right"), wanted["left"] - wanted["right"]),
            "population": (found.population("left"), math.exp(wanted["left"] - 3.7)),
        }
        for name, (estimate, value) in estimates.items():
            scores.setdefault(name, []).append(estimate.z_score(value))
        for name in NAMES:
            z = float(found.region(name).diagnostics["disagreement_z"])
            scores.setdefault(f"disagreement {name}", []).append(z)
    for values in scores.values():
        assert_standard(torch.tensor(values))


def test_bootstrap_and_first_order_errors_agree() -> None:
    down, up = (part(one, 0, 4000) for one in walks())
    fast, slow = (BidirectionalPaths(down, up, NAMES, bootstrap=n) for n in (0, 200))
    for first, second in (
        (fast.log_z(), slow.log_z()),
        (fast.region("right"), slow.region("right")),
        (fast.difference("left", "right"), slow.difference("left", "right")),
        (fast.population("left"), slow.population("left")),
    ):
        assert first.value == second.value
        assert second.std_error == pytest.approx(first.std_error, rel=0.25)  # 200 resamples: 5 %
        assert second.diagnostics["asymptotic_std_error"] == first.std_error
        assert second.diagnostics["forward_std_error"] == pytest.approx(
            first.diagnostics["forward_std_error"], rel=0.3
        )


@pytest.mark.parametrize("bootstrap", [0, 200])
def test_copies_of_one_unit_count_once(bootstrap: int) -> None:
    down, up = (part(one, 0, 1000) for one in walks())
    single = BidirectionalPaths(down, up, NAMES, bootstrap=bootstrap).difference("left", "right")
    tripled = [
        Walks(np.repeat(one.log_weight, 3), np.repeat(one.region, 3), np.repeat(np.arange(1000), 3))
        for one in (down, up)
    ]
    copies = BidirectionalPaths(*tripled, NAMES, bootstrap=bootstrap).difference("left", "right")
    assert copies.value == pytest.approx(single.value, abs=1e-9)
    assert copies.std_error == pytest.approx(single.std_error, rel=0.01)


def test_data_out_of_equilibrium_within_a_region_are_noticed() -> None:
    """One side of one mode alone, where the model is wrong: its estimates move apart, others do not."""
    down, _ = walks()
    pool = MODEL.sample(20_000, seeded(20))
    at = region(pool)
    pool = pool[(at == 0) | ((at == 1) & (pool[:, 0].numpy() < 0.5))][:8000]
    up = ladder().walk_up(pool, seeded(21))
    weight = (TARGET.log_density(up.z) + up.log_ratio).numpy()
    found = BidirectionalPaths(part(down, 0, 8000), Walks(weight, region(up.z)), NAMES, bootstrap=0)
    assert abs(float(found.region("left").diagnostics["disagreement_z"])) < 4
    assert abs(float(found.region("right").diagnostics["disagreement_z"])) > 5


def test_without_data_it_is_importance_sampling() -> None:
    down, _ = walks()
    down = part(down, 0, 3000)
    nothing = Walks(np.zeros(0), np.zeros(0, dtype=int))
    found = BidirectionalPaths(down, nothing, NAMES, bootstrap=0)
    theirs = log_z(np.asarray(down.log_weight))
    assert found.log_z().value == pytest.approx(theirs.value)
    assert found.log_z().std_error == pytest.approx(theirs.std_error, rel=1e-3)
    assert found.log_z().n_eff == pytest.approx(theirs.n_eff, rel=1e-3)
    weights = np.asarray(down.log_weight)
    at = np.asarray(down.region)
    ratio = free_energy_difference(weights, at == 0, at == 1)
    difference = found.difference("left", "right")
    assert difference.value == pytest.approx(ratio.value)
    assert difference.std_error == pytest.approx(ratio.std_error, rel=1e-3)
    assert difference.diagnostics["regions_without_data"] == "left, right"
    assert difference.overlap is None
    assert "reverse" not in difference.diagnostics


def test_what_cannot_be_answered_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    down, up = (part(one, 0, 500) for one in walks())
    at = np.asarray(down.region)
    blind = Walks(np.where(at == 1, -np.inf, down.log_weight), at)
    found = BidirectionalPaths(blind, up, NAMES, bootstrap=20)
    assert "no walk down ends: right" in caplog.text
    assert found.log_z().diagnostics["regions_without_walks"] == "right"
    assert found.log_z().diagnostics["n_nonfinite"] == (at == 1).sum()
    with pytest.raises(EmptyBasinError, match=r"region right: none of 500 .* the model misses it"):
        found.difference("left", "right")
    with pytest.raises(ConfigError, match="no region 'up'; the regions are: left, right, elsewhere"):
        found.region("up")
    with pytest.raises(DataError, match=r"walks up: 1 of 500 have no finite weight \(first: 7\)"):
        BidirectionalPaths(
            down, Walks(np.where(np.arange(500) == 7, np.nan, up.log_weight), up.region), NAMES
        )
    with pytest.raises(EmptyBasinError, match="none of 500 walks has a weight"):
        BidirectionalPaths(Walks(np.full(500, -np.inf), at), up, NAMES)
    with pytest.raises(DataError, match="whole numbers from -1"):
        BidirectionalPaths(down, up, ["left"])
    with pytest.raises(ConfigError, match="at least 2"):
        BidirectionalPaths(down, up, NAMES, bootstrap=1)
