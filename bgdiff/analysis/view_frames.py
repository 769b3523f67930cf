"""Which conformations of many are shown: drawn by weight, evenly, or from a place on a map of observables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from bgdiff.analysis.text import symbol
from bgdiff.errors import ConfigError

if TYPE_CHECKING:
    from bgdiff.generator import Ensemble
    from bgdiff.systems import System

__all__ = ["Chosen", "Place", "Source", "choose", "chosen_frames", "pick", "place_name", "weights_differ"]

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
Source: TypeAlias = "Ensemble | NDArray[np.floating[Any]]"
Place = str | Mapping[str, float]
"""A region, such as ``phi in [0, 130]`` (:mod:`bgdiff.regions`), or a point: values of observables by name,
in degrees for angles and torsions, to find what is nearest to."""


@dataclass(frozen=True)
class Chosen:
    """Conformations to show.

    Args:
        x: ``(m, N, D)``.
        rows: ``(m,)``, which of the source's they are.
        by_weight: whether they were drawn in proportion to weights.
        how: they were chosen, a sentence for the caption.
        reach: how far the farthest is from the point they were to be near to, in words.
    """

    x: Array
    rows: Rows
    by_weight: bool
    how: str
    reach: str = ""


def chosen_frames(source: Source, *, weighted: bool | None, n: int, seed: int = 0) -> Array:
    """The conformations to show, ``(m, N, D)``; arguments as for :func:`bgdiff.analysis.view.show`.

    Draws by weight are with replacement, and the first k of n draws are those of k draws with the same seed.

    Raises:
        ConfigError: ``weighted`` is wanted but not given, or cannot be, or ``n`` is not positive.
    """
    if weighted is None and weights_differ(source):
        raise ConfigError(
            "the samples have different weights: say weighted=True to draw them in proportion, or "
            "weighted=False to see them as the model proposes them"
        )
    return choose(source, weighted=bool(weighted), n=n, seed=seed).x


def choose(
    source: Source,
    *,
    weighted: bool,
    n: int,
    seed: int = 0,
    place: Place | None = None,
    system: "System | None" = None,
) -> Chosen:
    """Choose conformations to show.

    Args:
        source: an ensemble, or conformations ``(n, N, D)`` or ``(N, D)``.
        weighted: draw in proportion to weights, with replacement; else evenly spaced.
        n: how many at most; draws by weight are exactly n.
        seed: of the draws.
        place: choose within a region, or what is nearest to a point, each conformation once.
        system: of the conformations, where there is a place.

    Raises:
        ConfigError: ``n`` is not positive, an array is to be drawn by weight, or nothing is at the place.
    """
    if n < 1:
        raise ConfigError(f"the number of conformations to show must be positive, not {n}")
    x = _conformations(source)
    if weighted and isinstance(source, np.ndarray):
        raise ConfigError("these conformations have no weights; leave weighted out, or show an ensemble")
    possible = np.asarray(np.isfinite(x).all(axis=(1, 2)))
    at = ""
    if place is not None:
        assert system is not None
        if not isinstance(place, str):
            if weights_differ(source):
                possible = possible & np.isfinite(source.log_weight)
            return _nearest(source, x, possible, place, system, n)
        possible = possible & _within(source, x, place, system)
        at = f" of those with {place}"
        if not possible.any():
            raise ConfigError(f"none of the {len(x)} conformations lies in {place!r}: nothing to show")
    if weighted and weights_differ(source):
        weights = np.where(possible, source.weights, 0.0)
        if not weights.any():
            raise ConfigError(f"no conformation{at} has any weight: nothing to draw")
        rows = _drawn(weights, n, seed)
        how = (
            f"{n} conformations{at} drawn in proportion to their weights, with replacement: "
            f"{len(np.unique(rows))} different ones of {np.count_nonzero(weights)}"
        )
        return Chosen(x[rows], rows, True, how)
    rows = _evenly(np.flatnonzero(possible), n)
    how = f"{len(rows)} of {int(possible.sum())} conformations{at}, evenly spaced"
    if weights_differ(source):
        how += ", as the model proposes them: weights are not used to choose them"
    return Chosen(x[rows], rows, False, how)


def pick(
    source: Source,
    place: Place,
    system: "System | None" = None,
    *,
    n: int = 10,
    weighted: bool = True,
    seed: int = 0,
) -> Rows:
    """Rows ``(m,)`` of conformations at a place on a map of observables, such as the Ramachandran plot.

    Args:
        source: an ensemble, or conformations ``(n, N, D)`` of ``system``.
        place: a region, such as ``"phi in [0, 130] and psi in [-90, 30]"`` or a basin's name, of which
            conformations are drawn; or a point, such as ``{"phi": 60, "psi": -60}``, and those nearest to it
            are taken in the order of their distance. In degrees for angles and torsions.
        n: how many, at most.
        weighted: draw from a region in proportion to weights, with replacement; else evenly spaced. Of
            arrays, and of ensembles with equal weights, always the latter.
        seed: of the draws.

    Raises:
        ConfigError: nothing lies in the region, or there is no such observable.
    """
    weighted = weighted and weights_differ(source)
    found = None if isinstance(source, np.ndarray) else source.system
    found = found or system
    if found is None:
        raise ConfigError("say which system these conformations are of: pick(x, place, system)")
    return choose(source, weighted=weighted, n=n, seed=seed, place=place, system=found).rows


def weights_differ(source: Source) -> "TypeGuard[Ensemble]":
    """Whether the source's conformations have different weights; arrays have none."""
    if isinstance(source, np.ndarray):
        return False
    known = source.log_weight[np.isfinite(source.log_weight)]
    return bool(known.size < len(source) or np.ptp(known) > 0)


def place_name(place: Place) -> str:
    """A place in words."""
    if isinstance(place, str):
        return place
    return ", ".join(
        f"{symbol(name)} = {value:g}".replace("-", "\N{MINUS SIGN}") for name, value in place.items()
    )


def _conformations(source: Source) -> Array:
    if not isinstance(source, np.ndarray):
        return source.x
    x = np.asarray(source, dtype=np.float64)
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or len(x) == 0:
        raise ConfigError(f"conformations must have the shape (n, N, D), not {np.shape(source)}")
    return x


def _values(source: Source, x: Array, system: "System") -> dict[str, Array]:
    return dict(system.observables(x) if isinstance(source, np.ndarray) else source.observables)


def _within(source: Source, x: Array, place: str, system: "System") -> NDArray[np.bool_]:
    from bgdiff.regions import parse_region, region_values

    region = parse_region(place, system)
    return region.mask(region_values([region], system, x, known=_values(source, x, system)))


def _nearest(
    source: Source,
    x: Array,
    possible: NDArray[np.bool_],
    place: Mapping[str, float],
    system: "System",
    n: int,
) -> Chosen:
    """What is nearest to a point: by degrees if all are torsions, else by standard deviations."""
    values = _values(source, x, system)
    specs = system.spec.observables
    for name in place:
        if name not in specs:
            raise ConfigError(
                f"system {system.name} has no observable {name!r}; it has: {', '.join(specs) or 'none'}"
            )
    if not place or not possible.any():
        raise ConfigError("a point needs at least one observable, and a conformation to be near to it")
    degrees = all(specs[name].periodic for name in place)
    squared = np.zeros(len(x))
    for name, wanted in place.items():
        off = (np.degrees(values[name]) if specs[name].in_degrees else values[name]) - wanted
        if specs[name].periodic:
            off = (off + 180) % 360 - 180
        squared += (off if degrees else off / (off[possible].std() or 1.0)) ** 2
    distance = np.where(possible & np.isfinite(squared), np.sqrt(squared), np.inf)
    rows = np.argsort(distance, kind="stable")[: min(n, int(np.isfinite(distance).sum()))]
    reach = f"{distance[rows[-1]]:.2g}" + ("°" if degrees else " standard deviations")
    how = (
        f"the {len(rows)} conformations nearest to {place_name(place)}, the farthest {reach} away, each "
        "once, whatever its weight"
    )
    return Chosen(x[rows], rows, False, how, reach)


def _drawn(weights: Array, n: int, seed: int) -> Rows:
    cumulative = np.cumsum(weights)
    draws = np.random.default_rng(seed).random(n) * cumulative[-1]
    return np.asarray(np.searchsorted(cumulative, draws, side="right"), dtype=np.intp)


def _evenly(rows: Rows, n: int) -> Rows:
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(np.intp)]
