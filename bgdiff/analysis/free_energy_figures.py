"""The figures of ``free_energies.json``, with titles and captions."""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bgdiff.analysis.figures import RunFigure
from bgdiff.analysis.free_energy_plots import (
    Band,
    ForestRow,
    WorkHistogram,
    band_curves,
    forest,
    overlap_map,
    rung_curves,
    works,
)
from bgdiff.analysis.free_energy_results import (
    EstimateRecord,
    FreeEnergies,
    ProfileRecord,
    Quantity,
    Rungs,
    TemperaturePoint,
)
from bgdiff.analysis.text import symbol

__all__ = ["draw_free_energies"]

_KT = r"$k_\mathrm{B}T$"
_HIGHEST = 12.0  # kT; what lies above holds a handful of samples
_CROOKS = (
    "Distributions of the work −ln W of walks from the prior down to the target and of data walked up. By "
    "Crooks' theorem they cross (dashed) at −ln Z; for walks that end in a region of which they are the "
    "share q, at −ln(Z/q). Estimates from both sides need them to overlap. Data of several regions are "
    "weighted to the populations of these."
)
_CROOKS_SYSTEMS = (
    "Distributions of the energy difference between the two systems under either of them; they cross "
    "(dashed) at ΔF. Direct estimates need them to overlap."
)


def draw_free_energies(content: FreeEnergies) -> Iterator[RunFigure]:
    """Yield every figure that the file allows."""
    for quantity in content.quantities:
        if quantity.estimates:
            yield _forest(quantity)
        if quantity.works:
            yield _works(quantity)
    for profile in content.profiles:
        if not profile.refused:
            yield _profile(profile)
    names = [one.estimator for point in content.temperatures for one in point.differences]
    for number, name in enumerate(dict.fromkeys(names)):
        drawn = _temperatures(content, name, number)
        if drawn is not None:
            yield drawn
    if content.rungs is not None:
        yield _rungs(content.rungs)
        yield _overlap(content.rungs)


def _forest(quantity: Quantity) -> RunFigure:
    rows = [
        ForestRow(one.estimator, one.value, one.std_error, _kind(one, quantity)) for one in quantity.estimates
    ]
    reference = None
    if quantity.reference is not None:
        reference = quantity.reference, quantity.reference_std_error
    unit = "" if quantity.kind == "log_z" else f" / {_KT}"
    return RunFigure(
        f"free_energy_{_slug(quantity.key)}",
        f"Estimates of {quantity.title}",
        "Thick and thin bars: one and two standard errors. Shaded: the estimate to quote. Open diamonds: "
        "estimates that carry an error of the model and are not quoted."
        + (" Dashed: independent reference, with its standard error." if reference else ""),
        f"Estimates of {quantity.title} by {len(rows)} estimators with error bars.",
        forest(rows, label=f"{quantity.title}{unit}", reference=reference),
    )


def _kind(estimate: EstimateRecord, quantity: Quantity) -> str:
    if estimate.problem or estimate.value is None:
        return "refused"
    if estimate.estimator == quantity.judgement.quoted:
        return "quoted"
    return "usable" if estimate.exact else "check"


def _works(quantity: Quantity) -> RunFigure:
    panels = [
        WorkHistogram(
            np.array(one.edges), np.array(one.forward), np.array(one.reverse), one.crossing, one.label
        )
        for one in quantity.works
    ]
    return RunFigure(
        f"works_{_slug(quantity.key)}",
        f"Works behind {quantity.title}",
        _CROOKS_SYSTEMS if quantity.kind == "systems" else _CROOKS,
        f"Histograms of forward and reverse work behind {quantity.title}.",
        works(panels, *(("initial system", "final system") if quantity.kind == "systems" else ())),
    )


def _profile(profile: ProfileRecord) -> RunFigure:
    edges = np.array(profile.edges)
    centres = (edges[1:] + edges[:-1]) / 2
    label = symbol(profile.variable)
    xlabel = f"{label} / {profile.unit}" if profile.unit else label
    curve = Band(centres, _array(profile.free_energy), _array(profile.low), _array(profile.high))
    return RunFigure(
        f"free_energy_profile_{_slug(profile.variable)}",
        f"Free energy along {label}",
        f"−ln of the probability density, the lowest bin at 0. Band: covers the whole curve at once with "
        f"{100 * profile.confidence:.0f} % probability.",
        f"Free energy along {profile.variable} with a confidence band.",
        band_curves(
            [curve],
            xlabel=xlabel,
            ylabel=f"free energy / {_KT}",
            periodic=profile.periodic,
            highest=_HIGHEST,
        ),
    )


def _temperatures(content: FreeEnergies, name: str, number: int) -> RunFigure | None:
    def found(point: TemperaturePoint) -> EstimateRecord | None:
        for one in point.differences:
            if (
                one.estimator == name
                and not one.problem
                and one.value is not None
                and one.std_error is not None
            ):
                return one
        return None

    points = sorted(content.temperatures, key=lambda point: point.temperature)
    known = [(point.temperature, one) for point in points if (one := found(point)) is not None]
    if len(known) < 2:
        return None
    t = np.array([temperature for temperature, _ in known])
    value = np.array([one.value for _, one in known], dtype=np.float64)
    error = np.array([one.std_error for _, one in known], dtype=np.float64)
    own = (content.temperature or 1.0, "run")
    kelvin = content.temperature is not None
    return RunFigure(
        f"temperature_{number}",
        f"ΔF({name}) against temperature",
        "In kT of each temperature, from the run's samples reweighted. Band: one standard error; it widens "
        "as fewer of the samples count.",
        f"ΔF({name}) at {len(known)} temperatures with error band.",
        band_curves(
            [Band(t, value, value - error, value + error)],
            xlabel="temperature / K" if kelvin else "temperature / temperature of the run",
            ylabel=f"ΔF({name}) / {_KT}",
            marker="o",
            at=own,
        ),
    )


def _rungs(rungs: Rungs) -> RunFigure:
    learned = _array(rungs.learned) if rungs.learned else np.full(len(rungs.sigma), np.nan)
    known = bool(np.isfinite(learned).any())
    return RunFigure(
        "rungs",
        "Free energies of the rungs",
        "f = −ln Z of every rung, the prior at 0, by MBAR from samples of the rungs"
        + (
            ", and as learned in training; below their difference with MBAR's standard errors. Grey: the "
            "0.1 kT within which they should agree."
            if known
            else "."
        ),
        "Free energies of the rungs against noise.",
        rung_curves(rungs.sigma, learned, rungs.mbar, _array(rungs.mbar_std_error)),
    )


def _overlap(rungs: Rungs) -> RunFigure:
    labels = ["target" if sigma == 0 else f"{sigma:.2g}" for sigma in rungs.sigma]
    return RunFigure(
        "overlap",
        "Overlap of the rungs",
        "Probability that a sample of the rung on the left could as well be one of the rung below. "
        "Neighbours under 0.03 (outlined) would not be connected well enough.",
        "Overlap matrix of the rungs.",
        overlap_map(rungs.overlap, labels),
    )


def _array(values: list[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_") or "free_energy"
