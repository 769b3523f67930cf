"""Normalisers of rungs by MBAR on noised data: known ones are found, learned ones are checked, polished."""

from functools import cache

import numpy as np
import pytest
import torch
from checks import assert_standard, mixture, seeded
from ladders import torus_and_plane
from test_rung_samples import Unnormalised

from bgdiff.errors import DataError
from bgdiff.free_energy.normalisers import check_normalisers, polish, solve_normalisers
from bgdiff.generator import _polished
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.paths import Ladder
from bgdiff.models import GaussianModel
from bgdiff.progress import silent

SIGMA = noise_levels(40, 0.1, 8.0)
WIDTH = torch.full((2,), 0.3, dtype=torch.float64)
MODEL = Unnormalised(mixture())


@cache
def known() -> torch.Tensor:
    """f_k of all rungs, f_K = 0; that of rung 0 is anything."""
    f = MODEL.free_energy(SIGMA)
    f = f - f[-1]
    f[0] = 11.0
    return f


def test_z_scores_are_standard() -> None:
    """Units are chains that stay where they are: their points depend on each other at all rungs."""
    scores: dict[int, list[float]] = {}
    generator = seeded(1)
    for _ in range(200):
        z = mixture().sample(60, generator).repeat_interleave(2, 0)
        unit = torch.arange(60).repeat_interleave(2)
        solved = solve_normalisers(
            MODEL, SIGMA, WIDTH, z, generator, unit=unit, points=240, spacing=1.5, reach=None
        )
        for at in (0, len(solved.rungs) // 2):
            wanted = float(known()[solved.rungs[at]])
            scores.setdefault(at, []).append(solved.estimates[at].z_score(wanted))
    for values in scores.values():
        assert_standard(torch.tensor(values))


def test_noise_in_fours_is_exact_and_quieter() -> None:
    """Solutions for fixed data scatter by no more than their errors, far less than plain noise would."""
    z = GaussianModel(torch.zeros(30), torch.ones(30)).sample(400, seeded(2))
    model = Unnormalised(GaussianModel(torch.zeros(30), torch.ones(30)))
    sigma, width = noise_levels(12, 1.0, 8.0), torch.ones(30, dtype=torch.float64)
    found = [
        solve_normalisers(model, sigma, width, z, seeded(10 + i), points=200, spacing=1.2) for i in range(8)
    ]
    values = np.array([one.values[0] for one in found])
    assert found[0].std_error[0] < 0.15  # error of 30 · ln 8 / ... of independent points: 0.5
    assert values.std() < 2 * found[0].std_error[0]


def test_reach_neglects_little() -> None:
    """On periodic axes too, which are uniform on most rungs."""
    model, width = torus_and_plane(), torch.full((4,), 0.3, dtype=torch.float64)
    sigma, z = noise_levels(40, 0.02, 8.0), model.sample(500, seeded(3))
    near, far = (
        solve_normalisers(model, sigma, width, z, seeded(4), points=400, spacing=0.5, reach=reach)
        for reach in (5.0, None)
    )
    assert near.rungs == far.rungs
    np.testing.assert_allclose(near.values, far.values, atol=0.02)


def test_learned_normalisers_are_polished_and_checked() -> None:
    """What training got wrong along the ladder is found on one half of the data, and gone on the other."""
    z = mixture().sample(4000, seeded(5))
    drift = 0.3 * torch.cos(torch.log(SIGMA.clamp_min(0.1))) + 0.2
    drift[-1] = 0.0
    learned = known() + drift + 5.0  # a common shift means nothing
    held_out = solve_normalisers(MODEL, SIGMA, WIDTH, z[:2000], seeded(6), points=2000, spacing=0.5)
    before = check_normalisers(learned, SIGMA, held_out)
    assert before.rungs == held_out.rungs[:-1]
    np.testing.assert_allclose(before.sigma, SIGMA[list(before.rungs)])
    assert abs(before.largest.value) > 0.3 > 4 * before.largest.std_error
    assert before.largest.diagnostics["rms"] == before.rms > 0.1
    training = solve_normalisers(
        MODEL, SIGMA, WIDTH, z[2000:], seeded(7), points=2000, spacing=0.5, initial=learned
    )
    polished = polish(learned, SIGMA, WIDTH, training)
    assert float(polished[-1]) == 0.0
    moved = polished - (learned - learned[-1])
    assert float(moved[0]) == pytest.approx(float(moved[1])), "the target's moves with the first rung's"
    after = check_normalisers(polished, SIGMA, held_out)
    assert after.rms < 0.06
    np.testing.assert_allclose(polished[1:], known()[1:], atol=0.12)


def test_too_few_data_are_refused() -> None:
    with pytest.raises(DataError, match="3 data points"):
        solve_normalisers(MODEL, SIGMA, WIDTH, torch.zeros(3, 2), seeded(0))


def test_a_training_that_cannot_be_polished_keeps_what_it_learned(caplog: pytest.LogCaptureFixture) -> None:
    ladder = Ladder(MODEL, SIGMA, (1 / (0.3 + SIGMA[1:, None] ** 2)).expand(-1, 2))
    learned = known()
    kept = _polished(ladder, learned, torch.zeros(3, 2), 64, seeded(8), silent)
    assert kept is learned
    assert "stay as training left them: normalisers: 3 data points" in caplog.text
    z = mixture().sample(400, seeded(9))
    found = _polished(ladder, learned + 0.4 * torch.tanh(SIGMA), z, 2000, seeded(10), silent)
    np.testing.assert_allclose(found[1:], known()[1:], atol=0.25)
