"""The report's section on what samples are checked against: an exact identity, and equilibrium data."""

from typing import Any

from bgdiff.analysis.results import ReferenceDistance, Results, VirialCheck
from bgdiff.analysis.text import count, plus_minus, with_error
from bgdiff.analysis.verdict import METRIC_NAMES, distance_limit

__all__ = ["check_section"]

_MEANING = {
    "energy_w2": "Wasserstein distance of the reduced energies",
    "distance_w2": "Wasserstein distance of the distances of all pairs",
    "distance_tvd": "total variation of their histograms, 200 bins: 0 to 1",
    "configuration_w2": "Wasserstein distance of whole structures, superposed by rotation, reflection "
    "and exchange of equal particles",
    "configuration_w2_one_pass": "the same with the looser superposition of published code",
}
_OF_MOLECULES = "Wasserstein distance of whole structures, superposed by rotation"


def check_section(results: Results) -> dict[str, Any] | None:
    """Rows of the section's two tables, or None if nothing was checked."""
    comparison = results.comparison
    if not results.virial and comparison is None:
        return None
    return {
        "virial": [_virial_row(one) for one in results.virial],
        "metrics": [] if comparison is None else [_metric_row(one, results) for one in comparison.metrics],
        "unweighted": comparison is not None
        and any(one.unweighted is not None for one in comparison.metrics),
        "reference": None
        if comparison is None
        else f"{count(comparison.n_reference)} held-out frames"
        + (f" of {count(comparison.n_chains)} independent simulations" if comparison.n_chains > 1 else ""),
        "missing": results.comparison_missing,
    }


def _virial_row(check: VirialCheck) -> dict[str, str]:
    of = "corrected samples" if check.of == "samples" else "data set"
    n = count(check.n) if check.n == check.n_all else f"{count(check.n)} of {count(check.n_all)}"
    return {
        "name": of,
        "value": with_error(check.value, check.std_error),
        "expected": count(check.expected),
        "distance": "–" if check.z_score is None else f"{abs(check.z_score):.1f} standard errors",
        "n": n,
    }


def _metric_row(metric: ReferenceDistance, results: Results) -> dict[str, str]:
    meaning = _MEANING[metric.name]
    if metric.name == "configuration_w2" and results.temperature is not None:
        meaning = _OF_MOLECULES
    unit = {"kT": "kT", "nm": "nm", "reduced": "reduced units of length", "": ""}[metric.unit]
    return {
        "name": METRIC_NAMES[metric.name],
        "meaning": f"{meaning}; {unit}" if unit else meaning,
        "value": plus_minus(metric.value, metric.value_std),
        "unweighted": "–" if metric.unweighted is None else f"{metric.unweighted:.3g}",
        "floor": plus_minus(metric.floor, metric.floor_std),
        "ratio": "–" if metric.floor == 0 else f"{metric.value / metric.floor:.2f}",
        "n": count(metric.n),
        "level": "caution" if metric.value > distance_limit(metric) else "",
    }
