"""The table of a run for the terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bgdiff.analysis.results import Results, VirialCheck
from bgdiff.analysis.text import count, fraction, percent, plus_minus, two_decimals, with_error
from bgdiff.analysis.verdict import METRIC_NAMES, Level, findings

__all__ = ["MARKS", "STYLES", "summary_table"]

STYLES = {Level.RELIABLE: "green", Level.CAUTION: "yellow", Level.UNRELIABLE: "bold red"}
MARKS = {Level.RELIABLE: "✓", Level.CAUTION: "!", Level.UNRELIABLE: "✗"}


def summary_table(results: Results) -> Table:
    """Estimates with errors, how good the weights are, and the verdict, as a table of three columns."""
    table = Table(
        title=Text(results.title),
        title_style="bold",
        caption=_caption(results),
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("quantity", overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("compare with", overflow="fold")
    for difference in results.free_energy_differences:
        table.add_row(
            Text(f"ΔF({difference.initial} → {difference.final}) / kT"),
            with_error(difference.value, difference.std_error),
            Text(_comparison(difference.reference, difference.reference_std_error, difference.z_score)),
            style="bold",
        )
        if difference.data_value is not None:
            table.add_row("  counted in the data", two_decimals(difference.data_value), "")
        if difference.proposal_value is not None:
            table.add_row("  counted in the proposal", two_decimals(difference.proposal_value), "")
    log_z = results.log_z
    if log_z is not None:
        table.add_row(
            "log Z",
            with_error(log_z.value, log_z.std_error),
            Text(_comparison(log_z.reference, log_z.reference_std_error, log_z.z_score)),
        )
    table.add_section()
    table.add_row("samples", count(results.n_samples), _nonfinite(results))
    worth = results.independent_fraction
    effective = count(worth * results.n_samples)
    table.add_row("effective samples", effective, f"{fraction(worth)} of all", style="bold")
    table.add_row("  per target evaluation", fraction(results.effective_samples_per_evaluation), "")
    table.add_row("  per second", fraction(results.effective_samples_per_second), "training included")
    if results.n_chains:
        _chain_rows(table, results)
    if results.ess_kish is not None:
        _weight_rows(table, results)
    _check_rows(table, results)
    return table


def _weight_rows(table: Table, results: Results) -> None:
    whose = "of the proposed walks" if results.n_chains else "1 is perfect"
    table.add_row("effective sample size (Kish)", fraction(results.ess_kish), whose)
    if results.surviving_ancestors is not None:
        table.add_row(
            "effective families",
            fraction(results.effective_fraction),
            f"{count(results.surviving_ancestors)} ancestors, {count(results.n_resamplings)} resamplings of "
            f"{count(results.n_populations)} populations",
        )
    if results.ess_forward is not None:
        held_out = f"on {count(results.n_held_out)} held-out frames"
        table.add_row("forward, as the data are", fraction(results.ess_forward), held_out)
    if results.ess_forward_rebalanced is not None:
        table.add_row(
            "forward, proportions corrected", fraction(results.ess_forward_rebalanced), "close to Kish's"
        )
    table.add_row("largest weight share", percent(results.max_weight_share), "")
    table.add_row("Pareto k", two_decimals(results.pareto_k), "below 0.7")
    table.add_row(
        "clipped 1e-4 / trimmed 0.2 %",
        f"{fraction(results.ess_clipped_1e4)} / {fraction(results.ess_trimmed_0p2pct)}",
        "literature conventions",
    )


def _chain_rows(table: Table, results: Results) -> None:
    table.add_row("chains", count(results.n_chains), f"slowest: {results.slowest}")
    table.add_row("R-hat", "–" if results.rhat is None else f"{results.rhat:.3f}", "below 1.01")
    time = results.autocorrelation_time
    table.add_row("autocorrelation time", "–" if time is None else f"{time:.1f}", "draws of a chain")
    what = "of moves at the target" if results.swap_rates else "of walks as proposals"
    table.add_row("acceptance", percent(results.acceptance), what)
    if results.swap_rates is not None:
        rates = results.swap_rates
        table.add_row("exchanges of rungs", percent(rates.mean), f"least {percent(rates.min)}")
    if results.round_trips is not None:
        table.add_row("arrivals from the prior", count(results.round_trips), "")


def _check_rows(table: Table, results: Results) -> None:
    if results.virial or results.comparison is not None:
        table.add_section()
    for virial in results.virial:
        what = "virial ⟨x·∇u⟩" if virial.of == "samples" else "  of the data set"
        table.add_row(what, with_error(virial.value, virial.std_error), _identity(virial))
    if results.comparison is None:
        return
    for metric in results.comparison.metrics:
        unit = f" / {metric.unit}" if metric.unit in ("kT", "nm") else ""
        floor = f"floor {plus_minus(metric.floor, metric.floor_std)}"
        before = "" if metric.unweighted is None else f", unweighted {metric.unweighted:.3g}"
        table.add_row(
            f"{METRIC_NAMES[metric.name]}{unit}",
            plus_minus(metric.value, metric.value_std),
            f"{floor}{before} (n = {count(metric.n)})",
        )


def _identity(virial: VirialCheck) -> str:
    away = "" if virial.z_score is None else f", {abs(virial.z_score):.1f} σ away"
    return f"must be {virial.expected}{away} ({count(virial.n)} forces)"


def _caption(results: Results) -> Text:
    lines = []
    for finding in findings(results):
        lines.append(
            Text.assemble((MARKS[finding.level], STYLES[finding.level]), " ", (finding.text, "default"))
        )
    return Text("\n").join(lines)


def _comparison(value: float | None, std_error: float | None, z_score: float | None) -> str:
    if value is None:
        return "no reference"
    distance = "" if z_score is None else f", {abs(z_score):.1f} σ away"
    return f"reference {with_error(value, std_error)}{distance}"


def _nonfinite(results: Results) -> str:
    return f"{count(results.n_nonfinite)} of weight zero"
