"""What the report's structure view shows, as JSON: conformations, bonds, what colours mean."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from bgdiff.analysis.cluster_pictures import neighbour_colours
from bgdiff.analysis.run_files import RunFiles
from bgdiff.analysis.run_structures import RunStructures, basin_of
from bgdiff.analysis.style import COLOURS
from bgdiff.analysis.text import one_decimal, two_decimals
from bgdiff.analysis.view_groups import PALETTE, Group

__all__ = ["basin_groups", "structure_captions", "structure_view"]

Array = NDArray[np.float64]

_CONTACT = 3.8  # Å between touching particles of a cluster: about that of two argon atoms
_STEPS = 5  # swatches of a continuous scale
_MOST_ATOMS = 999  # that the format handed to the viewer can count


def structure_view(run: RunFiles, structures: RunStructures) -> str | None:
    """JSON for the viewer script; None if there are too many atoms.

    ``frames[i]`` holds ``x``, 3N whole numbers of 0.001 Å, ``bonds``, pairs of indices (null: the common
    ``bonds``), and ``caption``. ``colourings[i]`` holds ``name``, ``legend`` (colour and meaning), and
    ``colours``, of each frame one colour or a list with one for each atom; null for the colours of elements.
    Particles of a cluster are scaled to touch at 3.8 Å.
    """
    if structures.x.shape[1] > _MOST_ATOMS:
        return None
    cluster = structures.bonds is None
    scale = _CONTACT / structures.contact if cluster else 10.0
    frames = [
        {
            "x": np.rint(1000 * scale * points).astype(int).ravel().tolist(),
            "bonds": structures.neighbours(index).tolist() if cluster else None,
            "caption": caption,
        }
        for index, (points, caption) in enumerate(
            zip(structures.x, structure_captions(run, structures), strict=True)
        )
    ]
    content = {
        "symbols": structures.symbols,
        "bonds": [] if structures.bonds is None else structures.bonds.tolist(),
        "cluster": cluster,
        "frames": frames,
        "colourings": _colourings(run, structures),
    }
    # within a script element nothing may look like its end
    return json.dumps(content, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def structure_captions(run: RunFiles, structures: RunStructures, *, short: bool = False) -> list[str]:
    """What each conformation is: its basin, reduced energy, and (unless short) weight over the mean."""
    row = structures.row
    basin = _names(run)[_basin(run, row)] if run.results.basins else np.full(row.size, "")
    weight = _log_weight(run)[row]
    return [
        ", ".join(
            part
            for part in (
                str(name),
                f"u = {one_decimal(energy)} kT",
                f"ln(w/⟨w⟩) = {two_decimals(log_weight)}" if structures.weighted and not short else "",
            )
            if part
        )
        for name, energy, log_weight in zip(basin, run.proposal["energy"][row], weight, strict=True)
    ]


def basin_groups(run: RunFiles, structures: RunStructures) -> list[Group]:
    """The conformations on show by basin, those of no basin last; empty if the system has no basins."""
    if not run.results.basins:
        return []
    which, names = _basin(run, structures.row), _names(run)
    colours = [PALETTE[index % len(PALETTE)] for index in range(len(names) - 1)] + [COLOURS["muted"]]
    return [
        Group(str(names[index]), colours[index], members, f"{members.size} of {which.size}")
        for index in range(len(names))
        if (members := np.flatnonzero(which % len(names) == index)).size
    ]


def _colourings(run: RunFiles, structures: RunStructures) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if groups := basin_groups(run, structures):
        colours = {int(member): group.colour for group in groups for member in group.members}
        found.append(
            {
                "name": "basin",
                "legend": [[group.colour, group.name] for group in groups],
                "colours": [colours[index] for index in range(len(structures.row))],
            }
        )
    if structures.weighted and np.ptp(_log_weight(run)[structures.row]) > 1e-9:
        found.append(_scale("weight", _log_weight(run)[structures.row], "ln(w/⟨w⟩) = "))
    found.append(_scale("energy", run.proposal["energy"][structures.row], "u/kT = "))
    if structures.bonds is None:
        found.insert(0, _by_neighbours(structures))
    else:
        found.insert(0, {"name": "element", "legend": _elements(structures.symbols), "colours": None})
    return found


def _scale(name: str, value: Array, text: str) -> dict[str, Any]:
    """A scale over the central 90 % of the values; what lies beyond has the colours of its ends."""
    lo, hi = np.quantile(value, [0.05, 0.95])
    shown = colormaps["cividis"]
    place = np.clip((value - lo) / ((hi - lo) or 1.0), 0, 1)
    steps = np.linspace(0, 1, _STEPS)
    return {
        "name": name,
        "legend": [[to_hex(shown(step)), f"{text}{two_decimals(lo + step * (hi - lo))}"] for step in steps],
        "colours": [to_hex(shown(one)) for one in place],
    }


def _by_neighbours(structures: RunStructures) -> dict[str, Any]:
    n_atoms = structures.x.shape[1]
    number = np.stack(
        [
            np.bincount(structures.neighbours(index).ravel(), minlength=n_atoms)
            for index in range(len(structures.x))
        ]
    )
    least, most = int(number.min()), int(number.max())
    shown = neighbour_colours(least, most)
    shades = [to_hex(shown(index)) for index in range(most - least + 1)]
    return {
        "name": "neighbours",
        "legend": [[shade, str(least + index)] for index, shade in enumerate(shades)],
        "colours": [[shades[count - least] for count in counts] for counts in number],
    }


def _elements(symbols: Sequence[str]) -> list[list[str]]:
    """Those of the viewer's colours that are needed; NGL's, after Corey, Pauling and Koltun."""
    known = {"C": "#909090", "H": "#FFFFFF", "N": "#3050F8", "O": "#FF0D0D", "S": "#FFFF30", "P": "#FF8000"}
    return [[colour, symbol] for symbol, colour in known.items() if symbol in symbols]


def _basin(run: RunFiles, row: NDArray[np.intp]) -> NDArray[np.intp]:
    return basin_of(run.results, {k: v[row] for k, v in run.proposal.items() if k.startswith("obs_")})


def _names(run: RunFiles) -> NDArray[np.str_]:
    """Of the basins, and last of what lies in none."""
    return np.array([*(basin.name.replace("_", " ") for basin in run.results.basins), "no basin"])


def _log_weight(run: RunFiles) -> Array:
    """ln(w/⟨w⟩) of all samples; -inf for weight zero."""
    log_weight = run.proposal["log_weight"]
    top = log_weight.max()
    return np.asarray(log_weight - top - np.log(np.exp(log_weight - top).mean()))
