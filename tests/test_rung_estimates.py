"""MBAR over rungs and integration over the noise: their terms, and their errors over repetitions."""

from functools import cache

import pytest
import torch
from checks import assert_standard
from test_rung_samples import LOG_Z, TARGET, plan, populations

from bgdiff.errors import ConfigError
from bgdiff.free_energy.rung_estimates import integrate_noise, log_z_by_mbar, mbar_of_rungs
from bgdiff.ladder.rung_samples import energy_matrix


@cache
def repetitions() -> dict[str, list[float]]:
    """z-scores of 120 runs of 6 populations of 30 particles, with samples of the target or without."""
    wanted = plan().ladder.model.free_energy(plan().ladder.sigma)  # type: ignore[attr-defined]
    scores: dict[str, list[float]] = {}
    for i in range(120):
        samples = populations(6, 30, 1000 + i, TARGET if i % 2 else None)
        energy = energy_matrix(samples, TARGET)
        states = mbar_of_rungs(samples, energy)
        scores.setdefault("MBAR", []).append(log_z_by_mbar(states).z_score(LOG_Z))
        rung = states.difference(len(samples.rungs) - 1, 3)
        scores.setdefault("MBAR rung 3", []).append(rung.z_score(float(wanted[3])))
        scores.setdefault("integration", []).append(integrate_noise(samples, energy).z_score(LOG_Z))
    return scores


@pytest.mark.parametrize("name", ["MBAR", "MBAR rung 3", "integration"])
def test_z_scores_are_standard(name: str) -> None:
    assert_standard(torch.tensor(repetitions()[name]))


def test_terms_of_the_integral() -> None:
    samples = populations(8, 400, 12)
    energy = energy_matrix(samples, TARGET)
    found = integrate_noise(samples, energy)
    terms = [float(found.diagnostics[key]) for key in ("prior_step", "integral", "target_step")]
    assert found.value == pytest.approx(sum(terms))
    low, top = (float(plan().ladder.model.free_energy(samples.sigma[k])) for k in (1, 5))  # type: ignore[attr-defined]
    assert abs(terms[0] + top) < 0.1
    assert abs(terms[1] - (top - low)) < 0.1
    assert abs(terms[2] - (low + LOG_Z)) < 0.1
    assert found.std_error < 0.1
    assert found.std_error >= float(found.diagnostics["quadrature_error"])
    with pytest.raises(ConfigError, match="give the target"):
        integrate_noise(samples, energy[1:])
