"""Free energies for the terminal: all estimates side by side, the quoted one marked, the verdict in words."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bgdiff.analysis.free_energy_results import (
    Average,
    EstimateRecord,
    FreeEnergies,
    ProfileRecord,
    Quantity,
    Rungs,
    TemperaturePoint,
)
from bgdiff.analysis.summary import MARKS, STYLES
from bgdiff.analysis.text import count, fraction, kt_in_kj_per_mol, symbol, two_decimals, with_error
from bgdiff.analysis.verdict import Level

__all__ = ["answer", "average_label", "free_energies_view", "learned_against_mbar", "quantity_level"]

_ACROSS = 3
_LIMIT = 0.1


def free_energies_view(content: FreeEnergies) -> Group:
    """Everything that was asked for; fits into 80 columns."""
    parts: list[RenderableType] = [Text(content.title, style="bold")]
    for quantity in content.quantities:
        parts += ["", *_quantity(quantity, content.temperature)]
    if content.temperatures:
        parts += ["", *_temperatures(content.temperatures, content.temperature is not None)]
    for profile in content.profiles:
        parts += ["", *_profile(profile)]
    if content.rungs is not None and (found := learned_against_mbar(content.rungs)) is not None:
        parts += ["", _marked(*found)]
    parts += [_marked(Level.CAUTION, warning) for warning in content.warnings]
    return Group(*parts)


def answer(quantity: Quantity, temperature: float | None) -> str:
    """The quoted estimate with its units and the distance to the reference; or that there is none."""
    unit = "" if quantity.kind == "log_z" else "kT"
    if quantity.value is None:
        return f"{quantity.title}: refused"
    text = f"{quantity.title} = {with_error(quantity.value, quantity.std_error, unit)}"
    if unit and temperature is not None and quantity.std_error is not None:
        scale = kt_in_kj_per_mol(temperature)
        text += f" = {with_error(quantity.value * scale, quantity.std_error * scale, 'kJ/mol')}"
    if quantity.reference is not None:
        text += f"; reference {with_error(quantity.reference, quantity.reference_std_error)}"
        if quantity.z_score is not None:
            text += f", {abs(quantity.z_score):.1f} combined errors away"
    return text


def learned_against_mbar(rungs: Rungs) -> tuple[Level, str] | None:
    """How far the learned normalisers are from MBAR's; None where nothing was learned."""
    known = [
        (abs(learned - solved), error or 0.0)
        for learned, solved, error in zip(rungs.learned, rungs.mbar, rungs.mbar_std_error, strict=False)
        if learned is not None
    ]
    if not known:
        return None
    gap, error = max(known)
    fine = gap <= max(_LIMIT, 2 * error)
    text = (
        f"Learned normalisers {'agree with' if fine else 'differ from'} MBAR over {count(len(known))} rungs: "
        f"largest difference {with_error(gap, error or None)} kT (limit {_LIMIT:g}, or two errors)"
    )
    return (Level.RELIABLE if fine else Level.CAUTION), text


def quantity_level(quantity: Quantity) -> Level:
    """Whether the answer can be relied on."""
    if quantity.value is None:
        return Level.UNRELIABLE
    return Level.RELIABLE if quantity.judgement.consistent else Level.CAUTION


def average_label(average: Average) -> str:
    """Such as ⟨cos φ⟩, population of left, or ⟨u⟩ / kT."""
    kind, _, rest = average.name.partition("_")
    if kind == "population":
        return f"population of {rest}"
    if average.name == "potential_energy_kT":
        return "⟨u⟩ / kT"
    unit = "" if average.unit in ("1", "reduced", "own") else f" / {average.unit}"
    return f"⟨{'' if kind == 'mean' else f'{kind} '}{symbol(rest)}⟩{unit}"


def _quantity(quantity: Quantity, temperature: float | None) -> Iterator[RenderableType]:
    judgement = quantity.judgement
    table = _table(Text(quantity.title + ("" if quantity.kind == "log_z" else " / kT"), style="bold"))
    table.add_column("", width=1)
    table.add_column("estimator", overflow="fold", min_width=19)
    table.add_column("value ± error", justify="right", no_wrap=True)
    table.add_column("n_eff", justify="right", no_wrap=True)
    table.add_column("overlap", justify="right", no_wrap=True)
    table.add_column("note", overflow="fold", max_width=20)
    for estimate in quantity.estimates:
        quoted = estimate.estimator == judgement.quoted
        table.add_row(
            "▸" if quoted else "",
            estimate.estimator,
            "refused" if estimate.problem else with_error(estimate.value, estimate.std_error),
            "–" if estimate.n_eff is None else count(estimate.n_eff),
            fraction(estimate.overlap),
            Text(_note(estimate, quoted)),
            style="bold" if quoted else "dim" if estimate.problem or not estimate.exact else "",
        )
    if quantity.estimates:
        yield table
    yield _marked(quantity_level(quantity), answer(quantity, temperature))
    yield _indented(judgement.verdict)
    for advice in judgement.advice:
        yield _indented(f"→ {advice}", "cyan")
    for estimate in quantity.estimates:
        if estimate.problem:
            yield _indented(f"{estimate.estimator} refused: {estimate.problem}", "dim")
    for missing in quantity.missing:
        yield _indented(f"no {missing.estimator}: {missing.reason}", "dim")
    for note in quantity.notes:
        yield _indented(note, "dim")


def _note(estimate: EstimateRecord, quoted: bool) -> str:
    if quoted:
        return "quoted"
    if estimate.problem:
        return "see below"
    if not estimate.exact:
        return "model check"
    z = estimate.diagnostics.get("disagreement_z")
    if isinstance(z, float) and abs(z) > 3:
        return "ends disagree"
    return "both sides" if estimate.two_sided else ""


def _temperatures(points: list[TemperaturePoint], kelvin: bool) -> Iterator[RenderableType]:
    """Quantities in rows, temperatures in columns, a few to a table."""
    unit = " K" if kelvin else ""
    reached = [point for point in points if not point.refused]
    for start in range(0, len(reached), _ACROSS):
        shown = reached[start : start + _ACROSS]
        table = _table(Text("At other temperatures", style="bold"))
        table.add_column("", overflow="fold")
        for point in shown:
            table.add_column(f"{point.temperature:g}{unit}", justify="right", no_wrap=True)
        table.add_row("effective samples", *(count(point.n_eff or 0) for point in shown))
        table.add_row("overlap", *(fraction(point.overlap) for point in shown))
        for i, one in enumerate(shown[0].differences):
            cells = [point.differences[i] for point in shown]
            values = ("refused" if c.problem else with_error(c.value, c.std_error) for c in cells)
            table.add_row(f"ΔF({one.estimator}) / kT", *values, style="bold")
        for i, average in enumerate(shown[0].averages):
            name = average_label(average)
            averages = (point.averages[i] for point in shown)
            table.add_row(name, *(with_error(a.value, a.std_error) for a in averages))
        changes = [point.change for point in shown]
        table.add_row(
            "F/kT − F/kT(run)", *("–" if c is None else with_error(c.value, c.std_error) for c in changes)
        )
        yield table
    for point in points:
        for one in point.differences:
            if one.reference is not None and not one.problem:
                apart = "" if one.z_score is None else f", {abs(one.z_score):.1f} combined errors away"
                text = f"{point.temperature:g}{unit}: reference ΔF({one.estimator}) "
                yield _indented(text + with_error(one.reference, one.reference_std_error) + apart)
        if point.refused:
            yield _marked(Level.UNRELIABLE, f"refused: {point.refused}")
        for one in point.differences:
            if one.problem:
                yield _marked(
                    Level.UNRELIABLE,
                    f"{point.temperature:g}{unit}, ΔF({one.estimator}) refused: {one.problem}",
                )


def _profile(profile: ProfileRecord) -> Iterator[RenderableType]:
    if profile.refused:
        yield _marked(Level.UNRELIABLE, f"profile along {profile.variable}: {profile.refused}")
        return
    known = [
        (value, error, left, right)
        for value, error, left, right in zip(
            profile.free_energy, profile.std_error, profile.edges[:-1], profile.edges[1:], strict=True
        )
        if value is not None
    ]
    table = _table(Text(f"Profile along {profile.variable} / kT", style="bold"))
    for name in ("", f"{profile.variable} / {profile.unit}".rstrip(" /"), "F ± error"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name, value, error, left, right in _extremes(known, profile.periodic):
        table.add_row(name, two_decimals((left + right) / 2), with_error(value, error))
    yield table
    yield _indented(
        f"{count(len(known))} of {count(len(profile.free_energy))} bins filled; the "
        f"{100 * profile.confidence:.0f} % band of the whole curve is in the file and in the figure",
        "dim",
    )


def _extremes(
    bins: list[tuple[float, float | None, float, float]], periodic: bool
) -> Iterator[tuple[str, float, float | None, float, float]]:
    """The minima and maxima of a curve that stand out from it by three errors, and by half a kT."""
    import numpy as np
    from scipy.signal import find_peaks

    n, turns = len(bins), 3 if periodic else 1
    curve = np.tile([one[0] for one in bins], turns)
    ends = [] if periodic else [np.inf]
    found = {}
    for name, sign in (("minimum", -1.0), ("maximum", 1.0)):
        # at the ends of an open curve there is a wall for minima, and nothing for maxima
        walls = [-end for end in ends] if sign < 0 else []
        values = np.concatenate([walls, sign * curve, walls])
        peaks, facts = find_peaks(values, prominence=0.5)
        for peak, prominence in zip(peaks - len(walls), facts["prominences"], strict=True):
            error = bins[peak % n][1]
            if error is not None and prominence > 3 * error:
                found[peak % n] = name
    for place in sorted(found):
        yield found[place], *bins[place]


def _table(title: Text) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))


def _marked(level: Level, text: str) -> Text:
    return Text.assemble((MARKS[level], STYLES[level]), " ", text)


def _indented(text: str, style: str = "") -> Padding:
    return Padding(Text(text, style=style), (0, 0, 0, 2))
