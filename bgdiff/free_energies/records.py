"""From judged estimates to their record in ``free_energies.json``."""

from collections.abc import Mapping, Sequence
from typing import Any

from bgdiff.analysis.free_energy_results import (
    EstimateRecord,
    Histogram,
    JudgementRecord,
    Missing,
    Quantity,
)
from bgdiff.analysis.results import z_score
from bgdiff.free_energies.estimates import Found
from bgdiff.free_energy.judgement import judge

__all__ = ["quantity_record"]


def quantity_record(
    found: Found,
    *,
    key: str,
    kind: Any,
    title: str,
    initial: str | None = None,
    final: str | None = None,
    reference: Mapping[str, Any] | None = None,
    works: Sequence[Histogram] = (),
    notes: Sequence[str] = (),
) -> Quantity:
    """Judge the estimates of a quantity and write everything down.

    Args:
        found: its estimates and what is missing.
        reference: ``value``, ``std_error`` and ``method`` of an independent value.
    """
    judgement = judge(found.candidates)
    value, error = (reference or {}).get("value"), (reference or {}).get("std_error")
    estimates = [
        EstimateRecord(
            estimator=one.name,
            value=one.estimate.value,
            std_error=one.estimate.std_error,
            n_eff=one.estimate.n_eff,
            overlap=one.estimate.overlap,
            method=one.estimate.method,
            two_sided=one.two_sided,
            exact=one.exact,
            samples=dict(one.samples),
            problem=judgement.problems[one.name].reason if one.name in judgement.problems else None,
            diagnostics=dict(one.estimate.diagnostics),
            z_score=z_score(one.estimate.value, one.estimate.std_error, value, error),
        )
        for one in found.candidates
    ]
    quoted = next((one for one in estimates if one.estimator == judgement.quoted), None)
    return Quantity(
        key=key,
        kind=kind,
        title=title,
        initial=initial,
        final=final,
        value=None if quoted is None else quoted.value,
        std_error=None if quoted is None else quoted.std_error,
        estimates=estimates,
        missing=[Missing(estimator=name, reason=reason) for name, reason in found.missing.items()],
        judgement=JudgementRecord(
            quoted=judgement.quoted,
            consistent=judgement.consistent,
            verdict=judgement.verdict,
            advice=list(judgement.advice),
            chi_square=judgement.chi_square,
            degrees_of_freedom=judgement.degrees_of_freedom,
            p_value=judgement.p_value,
            alarms=list(judgement.alarms),
            more_samples=judgement.more_samples,
        ),
        reference=value,
        reference_std_error=error,
        reference_method=(reference or {}).get("method"),
        z_score=None if quoted is None else quoted.z_score,
        works=list(works),
        notes=list(notes),
    )
