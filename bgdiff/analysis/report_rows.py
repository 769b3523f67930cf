"""Rows of the tables in a run's report, and its headline numbers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bgdiff.analysis.results import BasinPopulation, FreeEnergyDifference, Normalisers, Results
from bgdiff.analysis.text import (
    count,
    fraction,
    kt_in_kj_per_mol,
    percent,
    symbol,
    two_decimals,
    with_error,
)
from bgdiff.analysis.verdict import Finding, Level

__all__ = ["Card", "basin_row", "cards", "diagnostics", "difference_row", "missing", "reference_methods"]

_METHODS = {
    "is": "importance sampling",
    "smc": "sequential Monte Carlo",
    "imh": "independent Metropolis-Hastings",
    "replica-exchange": "replica exchange",
}


class Card(NamedTuple):
    """A number to read first, and how far it can be relied on."""

    name: str
    number: str
    unit: str
    note: str
    level: Level


def cards(results: Results, found: Sequence[Finding]) -> Iterator[Card]:
    """The numbers to read first, marked by the findings that are about them.

    Findings about all numbers mark each of them where nothing can be relied on, and the count of samples in
    any case.
    """
    general = max((finding.level for finding in found if not finding.about), default=Level.RELIABLE)

    def level(name: str) -> Level:
        own = max((finding.level for finding in found if finding.about == name), default=Level.RELIABLE)
        return general if general is Level.UNRELIABLE else own

    for difference in results.free_energy_differences:
        name = f"ΔF({difference.initial} → {difference.final})"
        yield Card(
            name=name,
            number=with_error(difference.value, difference.std_error),
            unit="" if difference.value is None else "kT",
            note=_in_kj(difference, results.temperature),
            level=level(name),
        )
    worth = results.independent_fraction
    yield Card(
        name="effective independent samples",
        number=count(worth * results.n_samples),
        unit=f"of {count(results.n_samples)}",
        note=f"a fraction of {fraction(worth)}, by {_METHODS[results.method]}; "
        f"{fraction(results.effective_samples_per_evaluation)} per target evaluation, "
        f"{fraction(results.effective_samples_per_second)} per second",
        level=general,
    )
    log_z = results.log_z
    if log_z is None and results.rhat is not None:
        yield Card(
            name="R-hat",
            number=f"{results.rhat:.3f}",
            unit=f"over {count(results.n_chains)} chains",
            note=f"below 1.01 if they agree; {results.log_z_missing or 'log Z is not estimated'}",
            level=general,
        )
    elif log_z is None:
        yield Card("log Z", "–", "", results.log_z_missing or "not estimated", Level.RELIABLE)
    else:
        yield Card(
            name="log Z",
            number=with_error(log_z.value, log_z.std_error),
            unit="",
            note=_against(log_z.reference, log_z.reference_std_error, log_z.z_score),
            level=level("log Z"),
        )


def _in_kj(difference: FreeEnergyDifference, temperature: float | None) -> str:
    against = _against(difference.reference, difference.reference_std_error, difference.z_score)
    if temperature is None or difference.value is None:
        return against
    unit = kt_in_kj_per_mol(temperature)
    error = None if difference.std_error is None else difference.std_error * unit
    return f"{with_error(difference.value * unit, error, 'kJ/mol')}; {against}"


def _against(value: float | None, std_error: float | None, score: float | None) -> str:
    if value is None:
        return "no independent reference"
    distance = "" if score is None else f", {abs(score):.1f} combined errors away"
    return f"reference {with_error(value, std_error)}{distance}"


def difference_row(difference: FreeEnergyDifference) -> dict[str, str]:
    """One free-energy difference: ours, the reference, and what counting gives."""
    score = difference.z_score
    return {
        "name": f"{difference.initial} → {difference.final}",
        "value": with_error(difference.value, difference.std_error),
        "reference": "–"
        if difference.reference is None
        else with_error(difference.reference, difference.reference_std_error),
        "distance": "–" if score is None else f"{abs(score):.1f} combined errors",
        "data": two_decimals(difference.data_value),
        "proposal": two_decimals(difference.proposal_value),
    }


def reference_methods(results: Results) -> list[str]:
    """How the references of the differences were obtained."""
    return [
        f"{difference.initial} → {difference.final}: {difference.reference_method}"
        for difference in results.free_energy_differences
        if difference.reference_method
    ]


def _condition(
    results: Results, observable: str, intervals: Sequence[tuple[float | None, float | None]]
) -> str:
    kinds = {info.name: info for info in results.observables}
    info = kinds.get(observable)
    if info is None or info.unit in ("reduced", "own"):
        unit = ""
    else:
        unit = "°" if info.unit == "rad" else f" {info.unit}"
    return " or ".join(_interval(symbol(observable), lo, hi, unit) for lo, hi in intervals)


def basin_row(results: Results, basin: BasinPopulation) -> dict[str, str]:
    """A basin: what defines it, and its populations."""
    conditions = [(basin.observable, basin.intervals)]
    conditions += [(term.observable, term.intervals) for term in basin.and_conditions]
    where = " and ".join(_condition(results, name, intervals) for name, intervals in conditions)
    error = basin.reweighted_std_error
    reweighted = (
        percent(basin.reweighted)
        if basin.reweighted is None or error is None or error < 1e-9  # all samples in it, or none
        else f"({with_error(100 * basin.reweighted, 100 * error)}) %"
    )
    return {
        "name": basin.name,
        "where": where,
        "data": percent(basin.data),
        "proposal": percent(basin.proposal),
        "reweighted": reweighted,
    }


def _interval(name: str, lo: float | None, hi: float | None, unit: str) -> str:
    left = "" if lo is None else f"{lo:g}{unit} ≤ "
    right = "" if hi is None else f" < {hi:g}{unit}"
    return f"{left}{name}{right}".replace("-", "\u2212")


def missing(history: bool, data: bool) -> list[str]:
    """What the report cannot show, in words."""
    notes = []
    if not data:
        notes.append("The run holds no data.npz, so the data set is not drawn.")
    if not history:
        notes.append("The run holds no training history.")
    return notes


def diagnostics(results: Results) -> Iterator[dict[str, str]]:
    """How good the weights or chains are, as name, value and definition."""
    rows = list(_chain_rows(results)) if results.n_chains else []
    if results.ess_kish is not None:
        rows += _weight_rows(results)
    if results.normalisers is not None:
        rows.append(_normaliser_row(results.normalisers))
    for name, value, definition in rows:
        yield {"name": name, "value": value, "definition": definition}


def _chain_rows(results: Results) -> Iterator[tuple[str, str, str]]:
    yield "chains", count(results.n_chains), "independent of each other; samples are unweighted"
    yield (
        "slowest quantity",
        results.slowest or "–",
        "of all observables, basins and the energy; it decides the effective number of samples",
    )
    time = results.autocorrelation_time
    yield "autocorrelation time", "–" if time is None else f"{time:.1f}", "draws per independent draw"
    rhat = "–" if results.rhat is None else f"{results.rhat:.3f}"
    yield "R-hat", rhat, "largest rank-normalised split R-hat; below 1.01 if the chains agree"
    what = "moves at the target" if results.swap_rates else "walks as proposals"
    yield "acceptance", percent(results.acceptance), f"mean probability with which {what} are accepted"
    if results.swap_rates is not None:
        least, mean = percent(results.swap_rates.min), percent(results.swap_rates.mean)
        yield "exchanges", f"{mean}, least {least}", "mean acceptance between neighbouring rungs"
    if results.round_trips is not None:
        yield (
            "round trips",
            count(results.round_trips),
            "points that came from the prior, drawn anew in every round, to the target",
        )


def _weight_rows(results: Results) -> list[tuple[str, str, str]]:
    whose = "of the proposed walks' weights" if results.n_chains else "unmodified weights"
    held_out = f"over {count(results.n_held_out)} held-out frames"
    rows = [
        ("Kish's effective sample size", fraction(results.ess_kish), f"(Σw)²/(N Σw²), {whose}"),
        (
            "forward effective sample size",
            fraction(results.ess_forward),
            f"1/(E[w] E[1/w]) {held_out} as they are; small if the proposal misses what the data hold, or if "
            "the data's basins are in wrong proportion",
        ),
        (
            "the same, proportions corrected",
            fraction(results.ess_forward_rebalanced),
            "with the basins of the held-out frames in their reweighted proportions; small only if the "
            "proposal misses something",
        ),
        ("largest weight", percent(results.max_weight_share), "share of the sum of all weights"),
        (
            "Pareto k",
            two_decimals(results.pareto_k),
            "shape of the tail of the weights; below 0.5 their variance is finite, above 0.7 error bars "
            "can't be trusted, above 1 not even the mean exists",
        ),
        (
            "samples of weight zero",
            count(results.n_nonfinite),
            "impossible geometry or non-finite energy; they count as samples",
        ),
        (
            "ESS, top 10⁻⁴ clipped",
            fraction(results.ess_clipped_1e4),
            "Kish's, after the largest 10⁻⁴ of the weights are set to the smallest of them; only for "
            "comparison with the literature",
        ),
        (
            "ESS, top 0.2 % dropped",
            fraction(results.ess_trimmed_0p2pct),
            "Kish's, without the largest 0.2 % of the weights; only for comparison with the literature",
        ),
    ]
    if results.surviving_ancestors is not None:
        n = results.n_populations
        populations = f"{count(n)} population{'' if n == 1 else 's'}"
        text = (
            f"{count(results.surviving_ancestors)} ancestors after {count(results.n_resamplings)} "
            f"resamplings of {populations}; copies of one ancestor count as one "
            "draw"
        )
        rows.append(("effective families", fraction(results.effective_fraction), text))
    return rows


def _normaliser_row(found: Normalisers) -> tuple[str, str, str]:
    text = (
        f"largest difference in kT from MBAR on the same {count(len(found.sigma))} rungs and data that "
        f"training has not seen; root mean square {two_decimals(found.rms)}; "
        + ("within" if found.ok else "beyond")
        + f" the limit of {found.LIMIT:g}"
    )
    return "learned normalisers", with_error(found.largest, found.std_error), text
