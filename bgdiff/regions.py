"""Regions of conformations written in a line, such as ``phi in [-100, -30] and psi in [-80, 0]``.

    region     = [name ":"] condition {"and" condition}
    condition  = variable "in" interval {"or" interval}
    interval   = "[" low "," high "]"                      half-open: low is in, high is out; ±inf is allowed
    variable   = an observable of the system, or one of
                 dihedral(i,j,k,l)  angle(i,j,k)  distance(i,j)  component(particle,axis)
                 radius_of_gyration(atoms=[...])  rmsd(atoms="heavy", file="folded.pdb")
                 mdtraj.compute_rg  mdtraj.compute_contacts(contacts=[[0, 2]])[0]

Indices count from 0. Intervals are in degrees for angles and torsions, in the variable's unit otherwise.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from bgdiff.data.observables import in_all
from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.free_energy.estimate import EmptyBasinError
from bgdiff.observable_spec import ConditionSpec, Interval, ObservableSpec
from bgdiff.variables import variable_named

if TYPE_CHECKING:
    from torch import Tensor

    from bgdiff.systems import System

__all__ = ["Region", "RegionError", "check_disjoint", "check_populated", "parse_region", "region_values"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_NAME = re.compile(r"\s*([A-Za-z_][\w.+-]*)\s*:\s*")
_VARIABLE = re.compile(r"\s*(.+?)\s+in\s*(?=\[)")
_INTERVAL = re.compile(r"\s*\[\s*([^][,()]+?)\s*,\s*([^][,()]+?)\s*[])]")
_WORD = re.compile(r"\s*(or|and)\b")


class RegionError(ConfigError):
    """A region is written wrongly, or two that are compared overlap."""


@dataclass(frozen=True)
class Region:
    """Conformations that fulfil all of some conditions.

    Args:
        name: of a basin of the system, given by the user, or else the text itself.
        conditions: one for every variable.
        variables: what is measured, by the names that ``conditions`` use.
    """

    name: str
    conditions: tuple[ConditionSpec, ...]
    variables: Mapping[str, ObservableSpec] = field(repr=False)

    def mask(self, values: Mapping[str, Array]) -> Mask:
        """Which conformations lie in the region, given values of its variables, arrays of any one shape.

        Angles and torsions are in radian, as everywhere but in intervals. :func:`region_values` makes
        the arrays.
        """
        return in_all(self.conditions, self.variables, values)

    def __str__(self) -> str:
        return " and ".join(
            f"{one.observable} in " + " or ".join(f"[{lo:g}, {hi:g}]" for lo, hi in one.intervals)
            for one in self.conditions
        )


def parse_region(text: str, system: "System") -> Region:
    """Read a region: the name of a basin of the system, or conditions as the module says.

    Raises:
        RegionError: it is not written like that, a variable is unknown (near names are told) or makes no
            sense for this system, or an interval leaves the variable's range.
    """
    stripped = text.strip()
    if stripped in system.spec.basins:
        terms = tuple(system.spec.basins[stripped].terms)
        known = system.spec.observables
        return Region(stripped, terms, {term.observable: known[term.observable] for term in terms})
    if re.fullmatch(r"[\w.+-]*", stripped):
        _unknown_basin(stripped, system)
    named = _NAME.match(text)
    position = named.end() if named else 0
    conditions: list[ConditionSpec] = []
    variables: dict[str, ObservableSpec] = {}
    while True:
        found = _VARIABLE.match(text, position)
        if found is None:
            _bad(text, position, "expected a variable and its intervals, such as: phi in [0, 130]")
        intervals, position, word = _intervals(text, found.end())
        name, spec = _variable(text, found.group(1), system)
        if name in variables:
            _bad(text, found.start(1), f"{name} appears twice; join its intervals with 'or'")
        try:
            spec.check_intervals(intervals)
        except ValueError as error:
            _bad(text, found.start(1), f"{name}: {error}")
        conditions.append(ConditionSpec(observable=name, intervals=intervals))
        variables[name] = spec
        if word is None:
            return Region(named.group(1) if named else stripped, tuple(conditions), variables)


def region_values(
    regions: Sequence[Region],
    system: "System",
    x: "Tensor | Array | None" = None,
    known: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """Values of all variables of some regions, for :meth:`Region.mask`.

    Args:
        x: conformations ``(B, N, D)``.
        known: observables of the system that were computed before, by name; they are not computed again.

    Returns:
        Arrays ``(B,)``; radian for angles and torsions.

    Raises:
        RegionError: a variable is not known, and there is no ``x`` to compute it from.
    """
    wanted = {name: spec for region in regions for name, spec in region.variables.items()}
    own, given = system.spec.observables, known or {}
    found = {name: given[name] for name in wanted if name in given and own.get(name) == wanted[name]}
    missing = {name: spec for name, spec in wanted.items() if name not in found}
    if missing and x is None:
        raise RegionError(
            f"{', '.join(missing)}: is not among the observables that were kept, and there are no "
            "conformations to compute it from"
        )
    if missing:
        assert x is not None
        found |= system.measure(missing, x)
    return found


def check_disjoint(
    initial: Region, final: Region, samples: Mapping[str, tuple[Mask, Mask]] | None = None
) -> None:
    """Refuse regions of one difference that overlap: conformations would count on both sides.

    Args:
        samples: masks of both regions, by what the samples are called. They find overlaps that intervals
            cannot tell because the regions are defined by different variables.

    Raises:
        RegionError: they overlap; it says where, or by how many samples.
    """
    pair = f"regions {initial.name!r} and {final.name!r} overlap"
    for what, (first, second) in (samples or {}).items():
        if shared := int(np.count_nonzero(first & second)):
            where = _common(initial, final)
            raise RegionError(
                f"{pair}: {shared} of {first.size} {what} lie in both" + (f" ({where})" if where else "")
            )
    ours, theirs = set(initial.variables), set(final.variables)
    # with variables of its own on either side, conformations in both need not exist
    if (ours <= theirs or theirs <= ours) and (where := _common(initial, final)):
        raise RegionError(f"{pair}, where {where}")


def check_populated(region: Region, mask: Mask, values: Mapping[str, Array], samples: str) -> None:
    """Refuse a region that holds none of the samples.

    Args:
        mask: of the region.
        values: of its variables in the samples; the message says what they visit.
        samples: what they are called.

    Raises:
        EmptyBasinError: no sample lies in the region.
    """
    if mask.any():
        return
    visited = [
        f"{name} visits {_visited(values[name], spec)}" for name, spec in region.variables.items()
        if mask.size
    ]  # fmt: skip
    seen = f"; in them {', '.join(visited)}" if visited else ""
    raise EmptyBasinError(f"region {region.name!r} ({region}): holds none of {mask.size} {samples}{seen}")


def _intervals(text: str, position: int) -> tuple[list[Interval], int, str | None]:
    """Intervals from ``position`` on, where they end, and the ``and`` that follows, if any."""
    intervals = []
    while True:
        found = _INTERVAL.match(text, position)
        if found is None:
            _bad(text, position, "expected an interval such as [0, 130]")
        intervals.append((_number(text, found, 1), _number(text, found, 2)))
        position = found.end()
        if not text[position:].strip():
            return intervals, position, None
        word = _WORD.match(text, position)
        if word is None:
            _bad(text, position, "expected 'and', 'or' or the end")
        position = word.end()
        if word.group(1) == "and":
            return intervals, position, "and"
        if _INTERVAL.match(text, position) is None and _VARIABLE.match(text, position):
            _bad(text, position, "'or' joins intervals of one variable, not conditions on several")


def _number(text: str, found: "re.Match[str]", group: int) -> float:
    try:
        return float(found.group(group).replace(".inf", "inf"))
    except ValueError:
        _bad(text, found.start(group), f"{found.group(group)!r} is not a number")


def _variable(text: str, written: str, system: "System") -> tuple[str, ObservableSpec]:
    try:
        name, spec = variable_named(written, system.spec.observables)
        system.observable(name, spec)  # do its atoms, functions and files exist?
    except (ConfigError, SystemDefinitionError) as error:
        raise RegionError(f"region {text.strip()!r}: {error}") from error
    return name, spec


def _unknown_basin(name: str, system: "System") -> NoReturn:
    if not name:
        raise RegionError("a region is empty; write for example: phi in [0, 130]")
    known = system.spec.basins
    near = difflib.get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise RegionError(
        f"region {name!r}: system {system.name} has no such basin; {hint}it has: "
        f"{', '.join(known) or 'none'}. Others are written like: phi in [0, 130]"
    )


def _common(first: Region, second: Region) -> str:
    """Where the conditions of both hold on their common variables; empty if nowhere."""
    shared = []
    for one in first.conditions:
        for other in second.conditions:
            if one.observable == other.observable:
                periodic = first.variables[one.observable].periodic
                parts = _intersections(one.intervals, other.intervals, periodic)
                if not parts:
                    return ""
                shared.append(f"{one.observable} in " + " or ".join(f"[{lo:g}, {hi:g}]" for lo, hi in parts))
    return " and ".join(shared)


def _intersections(first: Sequence[Interval], second: Sequence[Interval], periodic: bool) -> list[Interval]:
    """Non-empty intersections of intervals; arcs of a circle (degrees) also a turn or more apart."""
    turns = range(-3, 4) if periodic else range(1)
    parts = [
        (max(lo, low + 360 * turn), min(hi, high + 360 * turn))
        for lo, hi in first
        for low, high in second
        for turn in turns
    ]
    return [(lo, hi) for lo, hi in parts if lo < hi]


def _visited(values: Array, spec: ObservableSpec) -> str:
    """The range of values in the unit of intervals; for an angle on the circle, its shortest arc."""
    if spec.periodic:
        degrees = np.sort(np.mod(np.degrees(values), 360))
        gaps = np.diff(degrees, append=degrees[0] + 360)
        widest = int(np.argmax(gaps))
        start = degrees[(widest + 1) % degrees.size]
        start -= 360 if start >= 180 else 0
        return f"[{start:.3g}, {start + 360 - gaps[widest]:.3g}]"
    scale = np.degrees(1.0) if spec.in_degrees else 1.0
    return f"[{scale * values.min():.3g}, {scale * values.max():.3g}]"


def _bad(text: str, position: int, problem: str) -> NoReturn:
    rest = text[position:].strip()
    at = f" at {rest!r}" if rest else " at its end"
    raise RegionError(f"region {text.strip()!r}:{at}: {problem}")
