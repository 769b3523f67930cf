"""Settings of training: what is minimised, on which points, how long."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from bgdiff.config_types import Count, Positive, Settings
from bgdiff.errors import ConfigError
from bgdiff.objectives.registry import OBJECTIVES, check_options

__all__ = ["DEFAULT_OBJECTIVES", "TrainingConfig"]

DEFAULT_OBJECTIVES = {"mixed_score": 1.0, "bi_level": 0.03}
"""Terms of the loss and their weights: docs/objectives.md has the comparison."""
_FORMER_WEIGHT = 0.1  # of DiffCLF, where earlier versions left it out
_CLASSIFICATIONS = ("bi_level", "multi_level", "jensen_shannon", "forward_kl")


class TrainingConfig(Settings):
    """How the rungs are fitted."""

    steps: Count = 5000
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 512
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-3
    warm_up: Annotated[int, Field(ge=0)] = 200
    """Steps over which the learning rate rises linearly; then it falls to 0 along a cosine."""
    gradient_clip: Positive = 1.0
    """Largest norm of the network's gradient."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay per step of the running mean of the weights, which is what is used afterwards."""
    forces: bool = True
    """Use the target's forces at the data points (mixed score identity); right only if the data were
    drawn from the target's own energy and temperature, though basins may be in wrong proportion."""
    objectives: dict[str, float] = DEFAULT_OBJECTIVES
    """Terms of the loss and their weights, by the names of :data:`bgdiff.objectives.OBJECTIVES`; 0 or null
    leaves a term out. Settings of a system or of ``--set`` change single terms of the default. The score
    terms are means over the axes. Larger weights of DiffCLF drown the scores in the classification's sampling
    noise, smaller ones leave the basins' weights to chance for longer."""
    objective_options: dict[str, dict[str, Any]] = Field(default={})
    """Options of single objectives by name, such as ``{fokker_planck: {probes: 4}}``; those of objectives
    that are left out are kept but change nothing."""
    n_levels: Annotated[int, Field(ge=2, le=64)] = 2
    """Rungs that are told apart in one group of points."""
    reach: Positive = 3.0
    """Largest statistical (Fisher-Rao) length between two rungs in one group: where they overlap well."""
    with_target: bool = False
    """Also tell rung 0, with the target's own energy, from the noisy rungs: ties the normalisers to the
    target's log Z. Only for data whose basins are in the right proportion."""
    relabel_hydrogens: bool = True
    """Give the three equal hydrogens of every CH3 or NH3+ new labels at random, frame by frame, as turns of
    the group by thirds would: short simulations seldom hold its three positions in equal numbers."""
    held_out: Annotated[float, Field(gt=0, lt=0.9)] = 0.1
    """Fraction of the data kept from training, for diagnostics and the forward effective sample size."""
    log_every: Count = 50
    evaluate_every: Count = 500
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 20.0
    """Wall-clock time between checkpoints: what a kill can cost."""

    @property
    def learns_normalisers(self) -> bool:
        """Whether a term of the loss learns the rungs' free energies."""
        return any(OBJECTIVES[name].learns_normalisers for name in self.objectives)

    @model_validator(mode="before")
    @classmethod
    def _former_fields(cls, content: Any) -> Any:
        """``classification`` and ``classification_weight``, which chose the variant of DiffCLF before."""
        if not isinstance(content, Mapping) or not {"classification", "classification_weight"} & set(content):
            return content
        rest = dict(content)
        known = rest.pop("objectives", DEFAULT_OBJECTIVES)
        variant = rest.pop("classification", "bi_level")
        weight = rest.pop("classification_weight", _FORMER_WEIGHT)
        others = {name: value for name, value in known.items() if name not in _CLASSIFICATIONS}
        return {**rest, "objectives": {**others, **({} if variant is None else {variant: weight})}}

    @field_validator("objectives", mode="before")
    @classmethod
    def _left_out(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: weight for name, weight in value.items() if weight is not None and weight != 0}

    @field_validator("objectives")
    @classmethod
    def _known_terms(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if name not in OBJECTIVES:
                raise ValueError(f"unknown objective {name!r}; choose from: {', '.join(OBJECTIVES)}")
            if not 0 < weight < math.inf:
                raise ValueError(
                    f"the weight of {name} must be positive, not {weight:g} (0 or null leaves the term out)"
                )
        if not any(OBJECTIVES[name].trains_energy for name in value):
            able = ", ".join(name for name, entry in OBJECTIVES.items() if entry.trains_energy)
            raise ValueError(f"no term trains the energy; add one of: {able}")
        return {name: value[name] for name in OBJECTIVES if name in value}

    @field_validator("objective_options")
    @classmethod
    def _known_options(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        try:
            return {name: check_options(name, options) for name, options in value.items()}
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _groups(self) -> "TrainingConfig":
        if self.with_target:
            able = ", ".join(name for name, entry in OBJECTIVES.items() if entry.takes_target)
            if "forward_kl" in self.objectives:
                raise ValueError(
                    "with_target does not go with the objective forward_kl, whose loss is infinite at a "
                    f"geometry that the target forbids; choose from: {able}"
                )
            if not any(OBJECTIVES[name].takes_target for name in self.objectives):
                raise ValueError(f"with_target needs an objective that uses the target: {able}")
        if self.batch_size < self.n_levels:
            raise ValueError(f"batch_size ({self.batch_size}) is below n_levels ({self.n_levels})")
        return self
