"""The objectives by name. Cheap to import: settings are checked against it without loading torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bgdiff.errors import ConfigError

if TYPE_CHECKING:
    from bgdiff.objectives.base import Objective, Setup

__all__ = ["OBJECTIVES", "Entry", "check_options", "make_objective", "objective_class"]


@dataclass(frozen=True)
class Entry:
    """Where an objective is, and what settings must know of it before it is loaded."""

    place: str
    """``module:class``"""
    trains_energy: bool = True
    """False for regularisers, which other energies than the data's satisfy as well."""
    learns_normalisers: bool = False
    """Whether it pulls the rungs' normalisers f_k to -log Z_k."""
    takes_target: bool = False
    """Whether it can tell the target's own energy, as rung 0, from the noisy rungs."""


OBJECTIVES: dict[str, Entry] = {
    "mixed_score": Entry("bgdiff.objectives.score:MixedScore"),
    "denoising_score": Entry("bgdiff.objectives.score:DenoisingScore"),
    "bi_level": Entry("bgdiff.objectives.diffclf:BiLevel", learns_normalisers=True, takes_target=True),
    "multi_level": Entry("bgdiff.objectives.diffclf:MultiLevel", learns_normalisers=True, takes_target=True),
    "jensen_shannon": Entry(
        "bgdiff.objectives.diffclf:JensenShannon", learns_normalisers=True, takes_target=True
    ),
    "forward_kl": Entry("bgdiff.objectives.diffclf:ForwardKL", learns_normalisers=True),
    "info_nce": Entry("bgdiff.objectives.infonce:InfoNCE", learns_normalisers=True),
    "time_score": Entry("bgdiff.objectives.time_score:TimeScore", learns_normalisers=True),
    "conditional_time_score": Entry(
        "bgdiff.objectives.time_score:ConditionalTimeScore", learns_normalisers=True
    ),
    "rne": Entry("bgdiff.objectives.rne:RNE", trains_energy=False, learns_normalisers=True),
    "fokker_planck": Entry("bgdiff.objectives.fokker_planck:FokkerPlanck", trains_energy=False),
    "sliced_score": Entry("bgdiff.objectives.sliced:SlicedScore"),
    "deen": Entry("bgdiff.objectives.deen:DEEN"),
    "energy_discrepancy": Entry("bgdiff.objectives.energy_discrepancy:EnergyDiscrepancy"),
    "contrastive_divergence": Entry("bgdiff.objectives.contrastive:ContrastiveDivergence"),
    "jarzynski": Entry("bgdiff.objectives.jarzynski:Jarzynski"),
    "diffebm": Entry("bgdiff.objectives.diffebm:DiffEBM"),
}
"""In the order in which a training step computes its terms."""


def objective_class(name: str) -> type["Objective"]:
    """The class of an objective.

    Raises:
        ConfigError: there is none of that name.

    >>> objective_class("bi_level").name
    'bi_level'
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"unknown objective {name!r}; choose from: {', '.join(OBJECTIVES)}")
    module, _, attribute = OBJECTIVES[name].place.partition(":")
    found: type[Objective] = getattr(import_module(module), attribute)
    return found


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, in their right types.

    Raises:
        ConfigError: naming each option that is unknown or out of range.
    """
    from pydantic import ValidationError

    kind = objective_class(name).options_class
    try:
        return kind.model_validate(dict(options)).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        known = ", ".join(kind.model_fields) or "none"
        lines = [
            f"{name}.{'.'.join(str(part) for part in problem['loc'])}: "
            + (
                f"no such option (there are: {known})"
                if problem["type"] == "extra_forbidden"
                else f"{problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r})"
            )
            for problem in error.errors()
        ]
        raise ConfigError("; ".join(lines)) from error


def make_objective(name: str, setup: "Setup", options: Mapping[str, Any] | None = None) -> "Objective":
    """An objective, ready to be trained with the model of ``setup``.

    Args:
        options: fields of its class's ``options_class``; defaults for what is left out.

    Raises:
        ConfigError: unknown name, or an option unknown or out of range.
    """
    kind = objective_class(name)
    return kind(setup, kind.options_class.model_validate(check_options(name, options or {})))
