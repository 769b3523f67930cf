"""The section on free energies of a run's report, from ``free_energies.json``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bgdiff.analysis.figures import RunFigure
from bgdiff.analysis.free_energy_figures import draw_free_energies
from bgdiff.analysis.free_energy_results import (
    FILE,
    EstimateRecord,
    FreeEnergies,
    Quantity,
    TemperaturePoint,
    read_free_energies,
)
from bgdiff.analysis.free_energy_view import answer, average_label, quantity_level
from bgdiff.analysis.summary import MARKS
from bgdiff.analysis.text import count, fraction, with_error

__all__ = ["free_energy_figures", "free_energy_section", "read_if_there"]


def read_if_there(directory: Path) -> FreeEnergies | None:
    """What ``bgdiff free-energy`` left in a run; None if it was never asked for.

    Raises:
        CheckpointError: the file is damaged or of another version.
    """
    file = directory / FILE
    return read_free_energies(file) if file.is_file() else None


def free_energy_figures(content: FreeEnergies) -> Iterator[RunFigure]:
    """Its figures, with names of their own."""
    yield from draw_free_energies(content)


def free_energy_section(content: FreeEnergies) -> dict[str, Any]:
    """What the template shows."""
    return {
        "quantities": [_quantity(quantity, content.temperature) for quantity in content.quantities],
        "temperatures": _temperatures(content),
        "limits": content.limits,
        "warnings": content.warnings,
    }


def _quantity(quantity: Quantity, temperature: float | None) -> dict[str, Any]:
    judgement, level = quantity.judgement, quantity_level(quantity)
    return {
        "title": quantity.title + ("" if quantity.kind == "log_z" else " / kT"),
        "level": level.name.lower(),
        "mark": MARKS[level],
        "answer": answer(quantity, temperature),
        "verdict": judgement.verdict,
        "advice": judgement.advice,
        "rows": [_row(one, quantity) for one in quantity.estimates],
        "missing": [f"{one.estimator}: {one.reason}" for one in quantity.missing],
        "notes": quantity.notes,
        "reference_method": quantity.reference_method,
    }


def _row(estimate: EstimateRecord, quantity: Quantity) -> dict[str, Any]:
    quoted = estimate.estimator == quantity.judgement.quoted
    if quoted:
        note = "quoted"
    elif estimate.problem:
        note = estimate.problem
    else:
        note = "" if estimate.exact else "check of the model, not quoted"
    z = estimate.z_score
    return {
        "name": estimate.estimator,
        "value": "refused" if estimate.problem else with_error(estimate.value, estimate.std_error),
        "n_eff": "–" if estimate.n_eff is None else count(estimate.n_eff),
        "overlap": fraction(estimate.overlap),
        "distance": "–" if z is None or estimate.problem else f"{abs(z):.1f}",
        "note": note,
        "quoted": quoted,
        "dim": bool(estimate.problem),
        "method": estimate.method,
    }


def _temperatures(content: FreeEnergies) -> dict[str, Any] | None:
    reached = [point for point in content.temperatures if not point.refused]
    refused = [point.refused for point in content.temperatures if point.refused]
    if not content.temperatures:
        return None
    unit = " K" if content.temperature is not None else ""
    columns = list(_columns(reached[0])) if reached else []
    return {
        "columns": columns,
        "rows": [
            {"temperature": f"{point.temperature:g}{unit}", "cells": list(_cells(point))} for point in reached
        ],
        "refused": refused,
    }


def _columns(point: TemperaturePoint) -> Iterator[str]:
    yield from ("effective samples", "overlap")
    yield from (f"ΔF({one.estimator}) / kT" for one in point.differences)
    yield "ΔF/kT to the run"
    yield from map(average_label, point.averages)


def _cells(point: TemperaturePoint) -> Iterator[str]:
    yield count(point.n_eff or 0)
    yield fraction(point.overlap)
    for one in point.differences:
        yield "refused" if one.problem else with_error(one.value, one.std_error)
    change = point.change
    yield "–" if change is None else with_error(change.value, change.std_error)
    for average in point.averages:
        yield with_error(average.value, average.std_error)
