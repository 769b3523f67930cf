"""What a ``system.yaml`` may say about observables and basins, and where their values lie.

Angles and torsions are in degrees here, in radian everywhere else in the program.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

__all__ = [
    "BasinSpec",
    "ConditionSpec",
    "CoordinationSpec",
    "CountSpec",
    "GyrationSpec",
    "Interval",
    "MdtrajSpec",
    "ObservableSpec",
    "PairCountSpec",
    "PairDistanceSpec",
    "RmsdSpec",
    "SteinhardtSpec",
]

Index = Annotated[int, Field(ge=0)]
Interval = tuple[float, float]

_TORSIONS = frozenset(
    ["compute_dihedrals", "compute_phi", "compute_psi", "compute_omega"]
    + [f"compute_chi{number}" for number in range(1, 6)]
)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GyrationSpec(_Model):
    """Radius of gyration: √(Σ mᵢ |rᵢ - r̄|² / Σ mᵢ), r̄ the centre of those masses."""

    atoms: Annotated[list[Index], Field(min_length=2)] | Literal["all"] = "all"
    mass_weighted: bool = False
    """Masses of the topology's elements; else every atom counts the same."""


class RmsdSpec(_Model):
    """Root-mean-square deviation of atoms from a structure, after the best superposition of these atoms."""

    atoms: Annotated[list[Index], Field(min_length=3)] | Literal["all", "heavy"] = "all"
    file: str | None = None
    """In the system's folder, any format of mdtraj, with the system's atoms; default: the topology file."""
    frame: Index = 0


class MdtrajSpec(_Model):
    """A column of what a function of mdtraj returns for every frame."""

    function: Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]
    """``compute_...``, or another function of mdtraj.geometry."""
    arguments: dict[str, JsonValue] = {}
    """All but the trajectory."""
    column: Index = 0
    periodic: bool | None = None
    """Whether it is an angle on the full circle, in radian; by default so for mdtraj's torsions."""


class CountSpec(_Model):
    """How many particles have their coordinate ``axis`` in one of the half-open intervals [lo, hi)."""

    axis: Index
    intervals: Annotated[list[Interval], Field(min_length=1)]

    @model_validator(mode="after")
    def _ordered(self) -> "CountSpec":
        _check_order(self.intervals)
        return self


class _OfPairs(_Model):
    """About the pairs of some particles, whatever their order."""

    atoms: Annotated[list[Index], Field(min_length=2)] | Literal["all"] = "all"


class PairCountSpec(_OfPairs):
    """How many pairs are at a distance in one of the half-open intervals [lo, hi)."""

    intervals: Annotated[list[Interval], Field(min_length=1)]

    @model_validator(mode="after")
    def _ordered(self) -> "PairCountSpec":
        _check_order(self.intervals)
        return self


class PairDistanceSpec(_OfPairs):
    """The shortest, the longest or the mean distance of all pairs."""

    which: Literal["shortest", "longest", "mean"]


class CoordinationSpec(_OfPairs):
    """How many particles have a number of neighbours in one of the half-open intervals [lo, hi)."""

    cutoff: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Neighbours are nearer than this."""
    intervals: Annotated[list[Interval], Field(min_length=1)]

    @model_validator(mode="after")
    def _ordered(self) -> "CoordinationSpec":
        _check_order(self.intervals)
        return self


class SteinhardtSpec(_OfPairs):
    """Bond-orientational order Q_l of all bonds (Steinhardt, Nelson & Ronchetti, Phys. Rev. B 28, 784, 1983).

    Q_l² = 4π/(2l+1) Σ_m |<Y_lm>|², averaged over the directions of pairs nearer than ``cutoff``; else 0.
    """

    l: int
    """Even, because a bond has no sense of direction: 4 and 6 tell cubic from icosahedral order."""
    cutoff: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _even(self) -> "SteinhardtSpec":
        if self.l not in range(2, 13, 2):
            raise ValueError(f"l: must be 2, 4, 6, 8, 10 or 12, not {self.l}")
        return self


class ObservableSpec(_Model):
    """A number computed from a conformation; exactly one of the fields. Indices count from 0."""

    dihedral: tuple[Index, Index, Index, Index] | None = None
    """Torsion angle of four atoms."""
    angle: tuple[Index, Index, Index] | None = None
    """Angle at the second of three atoms."""
    distance: tuple[Index, Index] | None = None
    """Distance of two particles, in nm for molecules."""
    component: tuple[Index, Index] | None = None
    """Coordinate (particle, axis)."""
    radius_of_gyration: GyrationSpec | None = None
    """In nm for molecules."""
    rmsd: RmsdSpec | None = None
    """In nm; of molecules."""
    count: CountSpec | None = None
    """Number of particles in a slab."""
    pair_count: PairCountSpec | None = None
    """Number of pairs at certain distances."""
    pair_distance: PairDistanceSpec | None = None
    """In nm for molecules."""
    coordination: CoordinationSpec | None = None
    """Number of particles with certain numbers of neighbours."""
    steinhardt: SteinhardtSpec | None = None
    """Bond-orientational order, from 0 to 1; in three dimensions."""
    mdtraj: MdtrajSpec | None = None
    """Any number that mdtraj computes of a molecule, in mdtraj's unit."""

    @model_validator(mode="after")
    def _one_kind(self) -> "ObservableSpec":
        given = [kind for kind in type(self).model_fields if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of " + ", ".join(type(self).model_fields))
        if self.component is None and len(set(self.particles)) != len(self.particles):
            raise ValueError("the same particle appears twice")
        return self

    @property
    def kind(self) -> str:
        """The field that is given."""
        return next(kind for kind in type(self).model_fields if getattr(self, kind) is not None)

    @property
    def periodic(self) -> bool:
        """Whether values are angles on the full circle."""
        if self.mdtraj is None:
            return self.dihedral is not None
        if self.mdtraj.periodic is None:
            return self.mdtraj.function in _TORSIONS
        return self.mdtraj.periodic

    @property
    def in_degrees(self) -> bool:
        """Whether intervals are in degrees (and values in radian)."""
        return self.periodic or self.angle is not None

    @property
    def particles(self) -> tuple[int, ...]:
        """Indices of the particles that it names."""
        chosen = self.radius_of_gyration or self.rmsd or self.of_pairs
        if chosen is not None:
            return () if isinstance(chosen.atoms, str) else tuple(chosen.atoms)
        return self.dihedral or self.angle or self.distance or (self.component or ())[:1]

    @property
    def of_pairs(self) -> PairCountSpec | PairDistanceSpec | CoordinationSpec | SteinhardtSpec | None:
        """What it asks of all pairs, if it does."""
        return self.pair_count or self.pair_distance or self.coordination or self.steinhardt

    @property
    def is_length(self) -> bool:
        """Whether values are lengths: in nm for molecules, else in reduced units."""
        lengths = (self.distance, self.component, self.radius_of_gyration, self.rmsd, self.pair_distance)
        return any(kind is not None for kind in lengths)

    @property
    def needs_molecule(self) -> bool:
        """Whether it asks for a topology, which toy densities lack."""
        weighted = self.radius_of_gyration is not None and self.radius_of_gyration.mass_weighted
        return weighted or self.rmsd is not None or self.mdtraj is not None

    @property
    def range(self) -> Interval:
        """Where values can lie, in the unit of intervals; for torsions one turn, cut at ±180."""
        if self.in_degrees:
            return (-180.0, 180.0) if self.periodic else (0.0, 180.0)
        if self.steinhardt is not None:
            return (0.0, 1.0)
        return (-math.inf if self.component is not None or self.mdtraj is not None else 0.0, math.inf)

    def check_intervals(self, intervals: Sequence[Interval]) -> None:
        """Check that intervals [lo, hi) make sense for this observable; ±inf leaves an end open.

        Torsions may be counted from anywhere, such as [150, 210], within a turn of the usual range.

        Raises:
            ValueError: an interval is empty or lies, in part, where no value can be.
        """
        _check_order(intervals)
        low, high = self.range
        for lo, hi in intervals:
            if self.periodic:
                if not (math.isfinite(lo) and math.isfinite(hi) and hi - lo <= 360):
                    raise ValueError(f"[{lo:g}, {hi:g}] is not an arc of a circle, which has 360 degrees")
                if lo > 360 or hi < -360:
                    raise ValueError(f"[{lo:g}, {hi:g}] is more than a turn away from [-180, 180] degrees")
            elif (math.isfinite(lo) and lo < low) or (math.isfinite(hi) and hi > high) or hi <= low:
                unit = " degrees" if self.in_degrees else ""
                raise ValueError(
                    f"[{lo:g}, {hi:g}] leaves the range of this {self.kind.replace('_', ' ')}, "
                    f"[{low:g}, {high:g}]{unit}"
                )


class ConditionSpec(_Model):
    """The observable lies in one of half-open intervals ``[lo, hi)``.

    Degrees for angles and torsions, where an interval may run through 180 (such as [150, 210]); otherwise
    the observable's own unit, where ``.inf`` is allowed.
    """

    observable: str
    intervals: Annotated[list[Interval], Field(min_length=1)]

    @model_validator(mode="after")
    def _ordered(self) -> "ConditionSpec":
        _check_order(self.intervals)
        return self


class BasinSpec(_Model):
    """Conformations that fulfil one condition, written as in :class:`ConditionSpec`, or all of several."""

    observable: str | None = None
    intervals: Annotated[list[Interval], Field(min_length=1)] | None = None
    conditions: Annotated[list[ConditionSpec], Field(min_length=1)] | None = None
    """All of them; instead of ``observable`` and ``intervals``."""

    @model_validator(mode="after")
    def _one_form(self) -> "BasinSpec":
        single = self.observable is not None and self.intervals is not None
        partly = self.observable is not None or self.intervals is not None
        if (self.conditions is None and not single) or (self.conditions is not None and partly):
            raise ValueError("give observable and intervals, or a list of conditions with these two each")
        _check_order(self.intervals or [])
        names = [condition.observable for condition in self.terms]
        if len(set(names)) < len(names):
            raise ValueError("conditions: an observable appears twice; list its intervals together")
        return self

    @property
    def terms(self) -> list[ConditionSpec]:
        """All its conditions, however it was written."""
        if self.conditions is not None:
            return list(self.conditions)
        assert self.observable is not None
        assert self.intervals is not None
        return [ConditionSpec(observable=self.observable, intervals=self.intervals)]


def _check_order(intervals: Sequence[Interval]) -> None:
    for lo, hi in intervals:
        if not lo < hi:
            raise ValueError(f"interval [{lo:g}, {hi:g}] must have its lower end first")
