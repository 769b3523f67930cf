"""The report of a run: ``figures/*.png`` and one self-contained ``report.html``."""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bgdiff.analysis.check_section import check_section
from bgdiff.analysis.figures import RunFigure, draw_figures
from bgdiff.analysis.free_energy_report import free_energy_figures, free_energy_section, read_if_there
from bgdiff.analysis.profiles import ExactProfile
from bgdiff.analysis.results import BasinPopulation, FreeEnergyDifference, Normalisers, Results
from bgdiff.analysis.run_files import read_run
from bgdiff.analysis.style import DPI, WIDTH, save_figure
from bgdiff.analysis.summary import MARKS
from bgdiff.analysis.text import (
    count,
    fraction,
    kt_in_kj_per_mol,
    percent,
    seconds,
    symbol,
    two_decimals,
    with_error,
)
from bgdiff.analysis.verdict import findings
from bgdiff.io import make_directory, write_text

__all__ = ["build_report"]

_METHODS = {
    "is": "importance sampling",
    "smc": "sequential Monte Carlo",
    "imh": "independent Metropolis-Hastings",
    "replica-exchange": "replica exchange",
}


def build_report(
    run_dir: Path | str,
    exact: Mapping[str, ExactProfile] | None = None,
    formats: Sequence[str] = (),
) -> Path:
    """Draw the figures of a run and write its ``report.html``.

    The report needs no network and no other file. It depends on the run's files alone, so building it
    again gives the same bytes.

    Args:
        run_dir: directory with ``results.json`` and ``proposal.npz``, and, for the full report,
            ``data.npz``, ``held_out.npz``, ``train/history.jsonl``, ``run.json`` and, if it was asked for,
            ``free_energies.json``.
        exact: exact free-energy curves by observable, where they are known.
        formats: further formats of the figures beside ``png``, such as ``pdf`` or ``svg`` for print.

    Returns:
        The path of ``report.html``.

    Raises:
        CheckpointError: a file is missing or damaged.
        StorageError: a file cannot be written.
    """
    directory = Path(run_dir)
    run = read_run(directory)
    folder = make_directory(directory / "figures")
    results, content = run.results, read_if_there(directory)

    def saved(figures: Iterable[RunFigure]) -> list[dict[str, Any]]:
        embedded = []
        for drawn in figures:
            for suffix in ("png", *formats):
                save_figure(drawn.figure, folder / f"{drawn.name}.{suffix}")
            embedded.append(_embed(drawn, folder / f"{drawn.name}.png"))
        return embedded

    figures = saved(draw_figures(run, exact))
    free_energies = None
    if content is not None:
        free_energies = free_energy_section(content) | {"figures": saved(free_energy_figures(content))}
    judged = findings(results)
    environment = Environment(
        loader=PackageLoader("bgdiff.analysis"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        results=results,
        level=max(finding.level for finding in judged),
        findings=judged,
        marks=MARKS,
        cards=list(_cards(results)),
        differences=[_difference_row(difference) for difference in results.free_energy_differences],
        reference_methods=_reference_methods(results),
        basins=[_basin_row(results, basin) for basin in results.basins],
        figures=figures,
        free_energies=free_energies,
        checks=check_section(results),
        missing=_missing(bool(run.history), bool(run.data)),
        diagnostics=list(_diagnostics(results)),
        provenance=list(_provenance(results)),
        manifest=list(_flatten(run.manifest)),
        kj=None if results.temperature is None else kt_in_kj_per_mol(results.temperature),
        count=count,
    )
    path = directory / "report.html"
    write_text(path, page)
    return path


def _embed(drawn: RunFigure, path: Path) -> dict[str, Any]:
    width, height = (round(float(inches) * DPI) for inches in drawn.figure.get_size_inches())
    return {
        "title": drawn.title,
        "caption": drawn.caption,
        "alt": drawn.alt,
        "file": f"figures/{path.name}",
        "data": base64.b64encode(path.read_bytes()).decode("ascii"),
        "width": width,
        "height": height,
        "narrow": drawn.figure.get_size_inches()[0] < 0.8 * WIDTH,
    }


def _cards(results: Results) -> Iterator[dict[str, str]]:
    for difference in results.free_energy_differences:
        yield {
            "name": f"ΔF({difference.initial} → {difference.final})",
            "number": with_error(difference.value, difference.std_error),
            "unit": "" if difference.value is None else "kT",
            "note": _in_kj(difference, results.temperature),
        }
    worth = results.independent_fraction
    yield {
        "name": "effective independent samples",
        "number": count(worth * results.n_samples),
        "unit": f"of {count(results.n_samples)}",
        "note": f"a fraction of {fraction(worth)}, by {_METHODS[results.method]}; "
        f"{fraction(results.effective_samples_per_evaluation)} per target evaluation, "
        f"{fraction(results.effective_samples_per_second)} per second",
    }
    log_z = results.log_z
    if log_z is None:
        yield {"name": "log Z", "number": "–", "unit": "", "note": results.log_z_missing or "not estimated"}
    else:
        yield {
            "name": "log Z",
            "number": with_error(log_z.value, log_z.std_error),
            "unit": "",
            "note": _against(log_z.reference, log_z.reference_std_error, log_z.z_score),
        }


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


def _difference_row(difference: FreeEnergyDifference) -> dict[str, str]:
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


def _reference_methods(results: Results) -> list[str]:
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


def _basin_row(results: Results, basin: BasinPopulation) -> dict[str, str]:
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


def _missing(history: bool, data: bool) -> list[str]:
    notes = []
    if not data:
        notes.append("The run holds no data.npz, so the data set is not drawn.")
    if not history:
        notes.append("The run holds no training history.")
    return notes


def _diagnostics(results: Results) -> Iterator[dict[str, str]]:
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
        text = (
            f"{count(results.surviving_ancestors)} ancestors after {count(results.n_resamplings)} "
            f"resamplings of {count(results.n_populations)} populations; copies of one ancestor count as one "
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


def _provenance(results: Results) -> Iterator[tuple[str, str]]:
    yield "data", f"{count(results.n_data)} frames, {count(results.n_held_out)} held out for the weights"
    yield "target evaluations", count(results.target_evaluations)
    if results.timings:
        stages = ", ".join(f"{stage} {seconds(time)}" for stage, time in results.timings.items())
        yield "time", f"{stages}; together {seconds(sum(results.timings.values()))}"
    if results.log_z is not None:
        yield "log Z", f"{results.log_z.method}, {count(results.log_z.n_eff)} effective samples"
    yield "versions", ", ".join(f"{name} {version}" for name, version in results.versions.items())


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """``{"a": {"b": 1}}`` as ``("a.b", "1")``; lists of plain values on one line."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for position, item in enumerate(value):
            yield from _flatten(item, f"{prefix}.{position}")
    elif isinstance(value, list):
        yield prefix, ", ".join(map(str, value))
    else:
        yield prefix, str(value)
