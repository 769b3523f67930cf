"""What the numbers of a run mean, in words: can they be relied on, and if not, why not."""

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from bgdiff.analysis.results import (
    BasinPopulation,
    FreeEnergyDifference,
    LogZ,
    ReferenceDistance,
    Results,
)
from bgdiff.analysis.text import count, fraction, percent, two_decimals, with_error

__all__ = [
    "METRIC_NAMES",
    "Finding",
    "Level",
    "advice",
    "distance_limit",
    "findings",
    "pareto_k_limit",
    "verdict",
]

# An effective sample of 1000 gives relative errors of 3 %; below 100 the error bars themselves are noise.
_ENOUGH, _TOO_FEW = 1000, 100
_SHARE_HIGH, _SHARE_EXTREME = 0.02, 0.1
# The forward ESS is noisy, and lies below Kish's by chance; by a factor of two it does not.
_FORWARD_LOW, _FORWARD_EXTREME = 0.5, 0.1
_NONFINITE_MANY = 0.01
_FEW_IN_BASIN, _HARDLY_IN_BASIN = 50, 15
_AGREES, _DISAGREES = 2.0, 3.0
# Vehtari et al. (2021) ask for an R-hat below 1.01; above 1.1, the older limit, chains plainly differ.
_RHAT_LARGE, _RHAT_EXTREME = 1.01, 1.1
_FEW_TRIPS = 100
_RARE = 0.05
_VIRIAL_OFF = 3.0
# A distance to the reference has a floor, which is noisy: above this many of it the samples differ.
_FLOORS = 1.5
METRIC_NAMES = {
    "energy_w2": "energies (W2)",
    "distance_w2": "pair distances (W2)",
    "distance_tvd": "pair distances (TVD)",
    "configuration_w2": "configurations (W2)",
    "configuration_w2_one_pass": "configurations (W2 as published)",
}
"""Of the distances between samples and reference."""


class Level(IntEnum):
    """How far a result can be relied on; the larger, the worse."""

    RELIABLE = 0
    CAUTION = 1
    UNRELIABLE = 2

    @property
    def words(self) -> str:
        return ("reliable", "use with caution", "not reliable")[self]


class Finding(NamedTuple):
    """One sentence, how bad it is, and which number it is about: all of them if it names none."""

    level: Level
    text: str
    about: str = ""


def verdict(results: Results) -> tuple[Level, list[str]]:
    """Return the worst level of all findings, and their sentences."""
    found = findings(results)
    return max(finding.level for finding in found), [finding.text for finding in found]


def advice(found: Sequence[Finding]) -> str:
    """What the worst of the findings mean for whoever wants to use the numbers."""
    worst = max(finding.level for finding in found)
    number = sum(finding.level == worst for finding in found)
    points = f"the {number} points" if number > 1 else "the point"
    if worst is Level.UNRELIABLE:
        return f"Do not quote these numbers before {points} marked ✗ {'are' if number > 1 else 'is'} mended."
    if worst is Level.CAUTION:
        return f"Read {points} marked ! before you use these numbers."
    return "Nothing that was checked speaks against these numbers and their errors."


def findings(results: Results) -> list[Finding]:
    """Judge the weights, then every estimate that has something to be compared with."""
    found = [_sample_size(results), *_chains(results), *_largest_weight(results), *_tail(results)]
    found += [*_forward(results), *_nonfinite(results), *_virial(results), *_distances(results)]
    for basin in results.basins:
        found += _unseen(basin, results.n_data)
    for difference in results.free_energy_differences:
        name = f"ΔF({difference.initial} → {difference.final})"
        found += [finding._replace(about=name) for finding in _difference(name, difference)]
    if results.log_z is not None and results.log_z.reference is not None:
        found.append(_against_reference("log Z", results.log_z, "")._replace(about="log Z"))
    found += [Finding(Level.CAUTION, _sentence(text)) for text in results.warnings]
    return found


def pareto_k_limit(n_samples: int) -> float:
    """Largest Pareto k at which the standard errors of ``n_samples`` weights can be relied on.

    min(1 - 1/log10 N, 0.7), Vehtari et al., Pareto smoothed importance sampling, JMLR 25 (2024), section 3.
    """
    return min(1 - 1 / math.log10(max(n_samples, 11)), 0.7)


def _sample_size(results: Results) -> Finding:
    best = results.independent_fraction
    effective = best * results.n_samples
    size = (
        f"Effective sample size {fraction(best)} of {count(results.n_samples)} samples, worth "
        f"{count(effective)} independent ones"
    )
    if results.slowest is not None:
        size += f" (slowest: {results.slowest})"
    if effective < _TOO_FEW:
        return Finding(Level.UNRELIABLE, f"{size}: too few to trust any number; train longer or sample more.")
    if effective < _ENOUGH:
        return Finding(Level.CAUTION, f"{size}: enough for a rough answer; sample more for a sharper one.")
    return Finding(Level.RELIABLE, f"{size}: reliable.")


def _chains(results: Results) -> list[Finding]:
    """How the chains mix; nothing for weighted samples."""
    if not results.n_chains:
        return []
    number, found = count(results.n_chains), []
    if results.rhat is None:
        found.append(
            Finding(Level.UNRELIABLE, f"The {number} chains do not move: R-hat has no finite value.")
        )
    else:
        level = (
            Level.UNRELIABLE
            if results.rhat > _RHAT_EXTREME
            else Level.CAUTION
            if results.rhat > _RHAT_LARGE
            else Level.RELIABLE
        )
        agree = "agree" if level is Level.RELIABLE else "have not come to agree yet; run them for longer"
        found.append(Finding(level, f"R-hat {results.rhat:.3f} over {number} chains: they {agree}."))
    if results.acceptance is not None and results.acceptance < _RARE:
        what = "proposed walks" if results.round_trips is None else "moves at the target"
        text = f"Only {percent(results.acceptance)} of the {what} are accepted; train longer."
        found.append(Finding(Level.CAUTION, text))
    if results.swap_rates is not None and results.swap_rates.min < _RARE:
        text = (
            f"Two rungs exchange in only {percent(results.swap_rates.min)} of cases, which holds everything "
            "up; raise correction.swap_acceptance."
        )
        found.append(Finding(Level.CAUTION, text))
    if results.round_trips is not None and results.round_trips < _FEW_TRIPS:
        level = Level.CAUTION if results.round_trips else Level.UNRELIABLE
        text = (
            f"{count(results.round_trips)} points came from the prior to the target, too few to weigh basins "
            "that only the prior connects; draw more samples."
        )
        found.append(Finding(level, text))
    return found


def _largest_weight(results: Results) -> list[Finding]:
    share = results.max_weight_share
    if share is None or share < _SHARE_HIGH or share * results.n_samples < 2:
        return []
    level = Level.UNRELIABLE if share >= _SHARE_EXTREME else Level.CAUTION
    return [Finding(level, f"A single sample carries {percent(share)} of all weight.")]


def _tail(results: Results) -> list[Finding]:
    """The weights' tail, of the proposed walks if they feed chains; nothing without weights."""
    if results.ess_kish is None:
        return []
    return [_tail_index(results)]


def _tail_index(results: Results) -> Finding:
    k = results.pareto_k
    if k is None:
        return Finding(
            Level.RELIABLE if results.independent_fraction > 0.99 else Level.CAUTION,
            "Pareto k cannot be estimated: fewer than five weights stand out from the rest.",
        )
    size = f"Pareto k {k:.2f}".replace("-", "\u2212")
    if k >= 1:
        return Finding(
            Level.UNRELIABLE, f"{size}: the weights may not even have a mean; neither values nor errors hold."
        )
    if k > pareto_k_limit(results.n_samples):
        return Finding(
            Level.CAUTION,
            f"{size}: the weights have a heavy tail, so the log Z error bar can't be trusted.",
            "log Z",
        )
    if k > 0.5:
        return Finding(
            Level.RELIABLE,
            f"{size}: the tail of the weights is long but manageable; error bars are approximate.",
        )
    return Finding(Level.RELIABLE, f"{size}: the weights have a finite variance, so the error bars hold.")


def _forward(results: Results) -> list[Finding]:
    if results.ess_forward is None:
        return [
            Finding(
                Level.CAUTION, "No held-out data: nothing here would reveal a mode that the proposal misses."
            )
        ]
    if results.ess_kish is None:
        return []  # no weights to compare with: chains that start at the prior are judged by what arrives
    raw, rebalanced = results.ess_forward, results.ess_forward_rebalanced
    best = raw if rebalanced is None else rebalanced
    ratio = best / results.ess_kish
    if ratio < _FORWARD_LOW:
        level = Level.UNRELIABLE if ratio < _FORWARD_EXTREME else Level.CAUTION
        return [
            Finding(
                level,
                f"Forward effective sample size {fraction(best)} on held-out data is far below "
                f"{fraction(results.ess_kish)}: the data hold regions that the proposal rarely visits; "
                "a mode may be missing.",
            )
        ]
    if rebalanced is not None and raw < _FORWARD_LOW * results.ess_kish:
        return [
            Finding(
                Level.RELIABLE,
                f"Forward effective sample size {fraction(rebalanced)} on held-out data in the corrected "
                f"proportions ({fraction(raw)} as they are): the proposal covers the data, whose basins are "
                "in wrong proportion.",
            )
        ]
    return [
        Finding(
            Level.RELIABLE,
            f"Forward effective sample size {fraction(best)} on held-out data: the proposal covers them.",
        )
    ]


def _nonfinite(results: Results) -> list[Finding]:
    if results.n_nonfinite == 0:
        return []
    share = results.n_nonfinite / results.n_samples
    return [
        Finding(
            Level.CAUTION if share > _NONFINITE_MANY else Level.RELIABLE,
            f"{count(results.n_nonfinite)} samples ({percent(share)}) had an impossible geometry or a "
            "non-finite energy; they count with weight zero.",
        )
    ]


def _virial(results: Results) -> list[Finding]:
    """The virial identity of samples and data; a failure of the data's is named, a success is not."""
    found = []
    for check in results.virial:
        whose = "of the samples" if check.of == "samples" else "of the data set"
        size = f"The virial ⟨x·∇u⟩ {whose} is {with_error(check.value, check.std_error)}"
        off = check.z_score is not None and abs(check.z_score) > _VIRIAL_OFF
        if off:
            assert check.z_score is not None
            why = (
                "the weights' errors are too small, or something in the sampling is wrong"
                if check.of == "samples"
                else "the data are from another temperature, force field or bias, or remember for long"
            )
            away = f"{abs(check.z_score):.1f} standard errors from the {check.expected} it must be"
            found.append(Finding(Level.CAUTION, f"{size}, {away}: {why}."))
        elif check.of == "samples":
            found.append(Finding(Level.RELIABLE, f"{size} and must be {check.expected}: they agree."))
    return found


def _distances(results: Results) -> list[Finding]:
    """Distances to equilibrium data that are above what their floor explains."""
    if results.comparison is None:
        return []
    metrics = results.comparison.metrics
    far = [metric for metric in metrics if metric.value > distance_limit(metric)]
    if not far:
        text = "The distances to held-out equilibrium data are about those of such data to each other."
        return [Finding(Level.RELIABLE, text)]
    units = {"kT": " kT", "nm": " nm", "reduced": "", "": ""}
    named = ", ".join(
        f"{METRIC_NAMES[metric.name]} {metric.value:.2g}{units[metric.unit]} where {metric.floor:.2g} "
        "is the floor"
        for metric in far
    )
    return [
        Finding(Level.CAUTION, f"The samples are farther from held-out equilibrium data than noise: {named}.")
    ]


def distance_limit(metric: ReferenceDistance) -> float:
    """Above which a distance to the reference is more than noise.

    The floor is that of n against n. Of weighted samples ``n_effective`` count, which raises it: distances of
    empirical distributions fall as √(1/n + 1/n_effective) or more slowly.
    """
    worth = max(min(metric.n_effective, float(metric.n)), 1.0)
    floor = metric.floor * math.sqrt((1 + metric.n / worth) / 2)
    return max(_FLOORS * floor, floor + 3 * math.hypot(metric.value_std, metric.floor_std))


def _unseen(basin: BasinPopulation, n_data: int) -> list[Finding]:
    """A basin that no data frame has shown to the model, though its prior may reach it."""
    if basin.data != 0:
        return []
    return [
        Finding(
            Level.UNRELIABLE,
            f"Basin {basin.name}: none of the {count(n_data)} data frames lies in it, so the model was never "
            "shown it. Samples that stray there say nothing reliable about its population; add data that "
            "visit it, and train again.",
        )
    ]


def _difference(name: str, difference: FreeEnergyDifference) -> list[Finding]:
    if difference.value is None:
        return [Finding(Level.UNRELIABLE, f"{name} could not be estimated.")]
    found = []
    if difference.reference is not None:
        found.append(_against_reference(name, difference, "kT"))
    else:
        estimate = with_error(difference.value, difference.std_error, "kT")
        found.append(Finding(Level.RELIABLE, f"{name} is {estimate}; there is no reference to compare with."))
    if difference.n_eff is not None and difference.n_eff < _FEW_IN_BASIN:
        rests = f"{name} rests on {difference.n_eff:.0f} effective samples in its poorer basin"
        if difference.n_eff < _HARDLY_IN_BASIN:
            advice = "draw more, or train with more of that basin (rounds.least_share)"
            found.append(Finding(Level.UNRELIABLE, f"{rests}, too few to be trusted; {advice}."))
        else:
            found.append(Finding(Level.CAUTION, f"{rests}; its error bar is rough."))
    shift = None if difference.data_value is None else difference.value - difference.data_value
    if shift is not None and abs(shift) > max(0.1, 3 * (difference.std_error or 0.0)):
        found.append(
            Finding(
                Level.RELIABLE,
                f"Counting the data as they are would give {two_decimals(difference.data_value)} kT; "
                f"reweighting moved it by {two_decimals(shift, sign=True)} kT.",
            )
        )
    return found


def _against_reference(name: str, estimate: FreeEnergyDifference | LogZ, unit: str) -> Finding:
    ours = with_error(estimate.value, estimate.std_error, unit)
    theirs = with_error(estimate.reference, estimate.reference_std_error, unit)
    if estimate.z_score is None:
        return Finding(Level.CAUTION, f"{name} is {ours}; it cannot be compared with the reference {theirs}.")
    distance = f"{abs(estimate.z_score):.1f} combined errors"
    if abs(estimate.z_score) <= _AGREES:
        return Finding(
            Level.RELIABLE,
            f"{name} is {ours} and agrees with the reference {theirs} within {distance}.",
        )
    level = Level.UNRELIABLE if abs(estimate.z_score) > _DISAGREES else Level.CAUTION
    return Finding(level, f"{name} is {ours} and disagrees with the reference {theirs} by {distance}.")


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
