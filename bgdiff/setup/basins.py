"""Basins of a new system: those a user writes as regions, or an example."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bgdiff.errors import ConfigError
from bgdiff.observable_spec import ConditionSpec, Interval, ObservableSpec
from bgdiff.regions import Region, check_disjoint, parse_region
from bgdiff.setup.torsions import Torsion

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["Basins", "basins_of", "complement", "example_basins"]


@dataclass(frozen=True)
class Basins:
    """What the sections ``basins`` and ``free_energy_differences`` will say."""

    basins: dict[str, tuple[ConditionSpec, ...]] = field(default_factory=dict)
    differences: tuple[tuple[str, str, str], ...] = ()
    """Name, initial and final basin of each"""
    observables: dict[str, ObservableSpec] = field(default_factory=dict)
    """What basins need besides the system's own"""
    example: bool = False


def example_basins(torsions: Sequence[Torsion]) -> Basins:
    """The two sides of the first φ, or of the first torsion if there is no φ; none without torsions."""
    phi = next((torsion for torsion in torsions if torsion.kind == "phi"), None)
    first = phi or next(iter(torsions), None)
    if first is None:
        return Basins()
    if phi is not None:
        sides: dict[str, list[Interval]] = {"negative": [(-180, 0), (130, 180)], "positive": [(0, 130)]}
    else:
        sides = {"trans": [(120, 240)], "gauche": [(-120, 120)]}
    names = {side: f"{first.name}_{side}" for side in sides}
    basins: dict[str, tuple[ConditionSpec, ...]] = {
        names[side]: (ConditionSpec(observable=first.name, intervals=intervals),)
        for side, intervals in sides.items()
    }
    initial, final = names.values()
    return Basins(basins, ((first.name, initial, final),), example=True)


def basins_of(texts: Sequence[str], system: "System") -> Basins:
    """Basins from regions as a user writes them, and the differences from the first to each other one.

    A single region on one variable is compared with all the rest.

    Args:
        texts: in the grammar of :mod:`bgdiff.regions`.
        system: has the observables that regions may name.

    Raises:
        RegionError: a region is written wrongly, or overlaps with the first.
        ConfigError: two have the same name, or there is nothing to compare a region with.
    """
    regions: dict[str, Region] = {}
    observables: dict[str, ObservableSpec] = {}
    conditions: dict[str, tuple[ConditionSpec, ...]] = {}
    for number, text in enumerate(texts, start=1):
        region = parse_region(text, system)
        name = f"basin_{number}" if region.name == text.strip() else region.name
        if name in regions:
            raise ConfigError(f"--basin {text!r}: there is another basin {name!r}; give it another name")
        regions[name] = region
        renamed = {}
        for variable, spec in region.variables.items():
            own = variable in system.spec.observables
            renamed[variable] = variable if own else re.sub(r"\W+", "_", variable).strip("_")
            if not own:
                observables[renamed[variable]] = spec
        conditions[name] = tuple(
            ConditionSpec(observable=renamed[one.observable], intervals=one.intervals)
            for one in region.conditions
        )
    first = next(iter(regions))
    if len(regions) == 1:
        if len(conditions[first]) > 1:
            raise ConfigError(
                f"--basin {texts[0]!r}: say with another --basin what to compare it with; only the rest of "
                "a single variable can be told from it"
            )
        condition = conditions[first][0]
        spec = {**system.spec.observables, **observables}[condition.observable]
        rest = complement(condition.intervals, spec)
        if not rest:
            raise ConfigError(
                f"--basin {texts[0]!r}: covers all conformations; there is nothing to compare it with"
            )
        other = f"not_{first}"
        conditions[other] = (ConditionSpec(observable=condition.observable, intervals=rest),)
        return Basins(conditions, ((first, other, first),), observables)
    others = [name for name in regions if name != first]
    for name in others:
        check_disjoint(regions[first], regions[name])
    differences = tuple((f"{first}_to_{name}", first, name) for name in others)
    return Basins(conditions, differences, observables)


def complement(intervals: Sequence[Interval], spec: ObservableSpec) -> list[Interval]:
    """All values of an observable outside half-open intervals; arcs of the circle (degrees) for torsions."""
    low, high = spec.range
    if spec.periodic:
        pieces = []
        for lo, hi in intervals:
            start = lo % 360
            pieces += [(start, min(start + hi - lo, 360)), (0.0, max(start + hi - lo - 360, 0.0))]
        low, high = 0.0, 360.0
    else:
        pieces = list(intervals)
    free, at = [], low
    for lo, hi in sorted(pieces):
        if hi > lo:
            if lo > at:
                free.append((at, lo))
            at = max(at, hi)
    if at < high:
        free.append((at, high))
    if not spec.periodic:
        return free
    behind = [(max(lo, 180.0) - 360, hi - 360) for lo, hi in free if hi > 180]
    return behind + [(lo, min(hi, 180.0)) for lo, hi in free if lo < 180]
