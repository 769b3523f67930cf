"""Structures to look at: in a notebook with nglview, and as a static picture, always together.

:func:`show` ends a cell of a notebook::

    from bgdiff.analysis.view import picture, show
    show(ensemble, by="basin")

and what it returns displays a widget to turn with the mouse and below it a picture of the same conformations.
A notebook whose ipywidgets and JupyterLab do not fit nglview shows an empty widget and no error; a page on
GitHub or a PDF shows none at all. :func:`picture` is the picture alone.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.analysis.conformational_clusters import heavy_atoms
from bgdiff.analysis.text import unbroken
from bgdiff.analysis.view_frames import (
    Chosen,
    Place,
    Source,
    choose,
    chosen_frames,
    pick,
    place_name,
    weights_differ,
)
from bgdiff.analysis.view_groups import PALETTE, By, Group, Grouping, grouped
from bgdiff.analysis.view_widget import MissingViewerError, overlaid, played
from bgdiff.errors import ConfigError

if TYPE_CHECKING:
    import mdtraj
    import nglview
    from matplotlib.figure import Figure

    from bgdiff.systems import System

__all__ = [
    "MissingViewerError",
    "View",
    "chosen_frames",
    "pick",
    "picture",
    "show",
    "shown_trajectory",
]

_CONTACT = 0.38  # nm: about the distance of two argon atoms where they attract most
_SINGLE = 6  # structures side by side where there are no groups
_DPI = 160
_HINT = (
    "Interactive view above: drag to turn, scroll to zoom. Nothing there? This page has no widgets, or "
    "nglview does not fit the notebook's. The picture below shows the same conformations."
)


@dataclass(frozen=True)
class View:
    """Conformations on show, superposed on the first. As the result of a notebook's cell it displays itself.

    Args:
        x: ``(m, N, D)``, as they come from the source.
        rows: ``(m,)``, which of the source's conformations they are.
        system: whose they are.
        groups: one for each colour; none if conformations are shown one by one in the colours of elements.
        caption: what is shown, how it was chosen, and what colours mean.
        align: atoms that are superposed, in mdtraj's language; None: heavy ones.
    """

    x: NDArray[np.float64]
    rows: NDArray[np.intp]
    system: "System"
    groups: tuple[Group, ...]
    caption: str
    align: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def trajectory(self) -> "mdtraj.Trajectory":
        """As viewers get them, see :func:`shown_trajectory`, turned as the picture is."""
        from bgdiff.analysis.overlay_pictures import viewing_rotation

        shown = shown_trajectory(self.x, self.system, self.align)
        topology, d = self.system.topology, self.x.shape[2]
        atoms = slice(None) if topology is None else heavy_atoms(topology)
        x = np.asarray(shown.xyz, dtype=np.float64)
        x -= x[0, atoms].mean(0)
        x[..., :d] = x[..., :d] @ viewing_rotation(x[:, atoms, :d])
        shown.xyz = x
        return shown

    @cached_property
    def widget(self) -> "nglview.NGLWidget":
        """The interactive view: groups superposed, else one conformation after the other.

        Raises:
            MissingViewerError: nglview is not installed.
        """
        molecule = self.system.topology is not None
        if self.groups:
            return overlaid(self.trajectory, self.groups, molecule=molecule)
        return played(self.trajectory, molecule=molecule)

    @cached_property
    def figure(self) -> "Figure":
        """The static picture, with its caption."""
        from bgdiff.analysis.cluster_pictures import Picture, structures
        from bgdiff.analysis.molecule_pictures import molecule_structures
        from bgdiff.analysis.overlay_pictures import overlays, with_caption

        topology = self.system.topology
        if self.groups:
            x = np.asarray(self.trajectory.xyz, dtype=np.float64)
            if topology is None:
                return with_caption(overlays(self.groups, x[..., : self.x.shape[2]]), self.caption)
            heavy = heavy_atoms(topology)
            return with_caption(overlays(self.groups, x[:, heavy], _bonds(topology, heavy)), self.caption)
        some = np.linspace(0, len(self) - 1, min(_SINGLE, len(self))).round().astype(np.intp)
        pictures = [Picture(self.x[k], str(k + 1)) for k in some]
        if topology is not None:
            return with_caption(molecule_structures(pictures, topology), self.caption)
        return with_caption(structures(pictures, types=_types(self.system)), self.caption)

    @cached_property
    def png(self) -> bytes:
        """The static picture as a PNG file."""
        with io.BytesIO() as file:
            self.figure.savefig(file, format="png", dpi=_DPI)
            return file.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Picture and words, for everything that displays one output of an object."""
        return {"image/png": self.png, "text/plain": self.caption}

    def _ipython_display_(self) -> None:
        """Widget and picture as two outputs: a blank one cannot hide the other."""
        from IPython.display import HTML, display

        try:
            bundle = self.widget._repr_mimebundle_()
        except MissingViewerError as error:
            display(HTML(f"<p>No interactive view: {error}. The picture shows the same conformations.</p>"))
        else:
            note = "Interactive view: open the notebook in JupyterLab and run this cell."
            display({**dict(bundle), "text/plain": note}, raw=True)
            display(HTML(f"<p><small>{_HINT}</small></p>"))
        width = round(110 * float(self.figure.get_size_inches()[0]))
        display(
            {"image/png": self.png, "text/plain": self.caption},
            raw=True,
            metadata={"image/png": {"width": width}},
        )


def show(
    source: Source,
    system: "System | None" = None,
    *,
    by: By | None = None,
    where: Place | Mapping[str, Place] | None = None,
    weighted: bool | None = None,
    n: int = 50,
    n_clusters: int = 4,
    align: str | None = None,
    seed: int = 0,
) -> View:
    """Conformations of a molecule or a cluster, superposed: a widget, and a picture beside it.

    Args:
        source: an ensemble, or conformations ``(n, N, D)`` or ``(N, D)`` of ``system``.
        system: whose conformations they are; ensembles know.
        by: colour, and show all at once: ``weight`` (over the mean weight), ``basin`` (of the system), or
            ``cluster`` (of similar conformations among those shown). None shows one after the other.
        where: show only what is at a place on a map of observables, as for :func:`pick`; or at several, by
            name, each of them in a colour of its own.
        weighted: True draws conformations in proportion to their weights, the ensemble of the target; False
            takes them as they are, evenly spaced, the ensemble of the proposal. By default as
            colours ask for: False by weight, else True if weights differ. The caption says what was done.
            Arrays have no weights.
        n: conformations shown, at each place; those of an array all, if there are fewer.
        n_clusters: at most, if coloured by cluster.
        align: atoms to superpose, in mdtraj's selection language, such as ``resname ALA and name CA C N``;
            heavy ones by default.
        seed: of the draws.

    Raises:
        ConfigError: it is not clear what to show, or mdtraj has no topology for it.
    """
    system = _system_of(source, system)
    _check_shown(system)
    if weighted is None:
        weighted = by != "weight" and weights_differ(source)
    if isinstance(where, Mapping) and any(not isinstance(place, int | float) for place in where.values()):
        if by is not None:
            raise ConfigError("several places have a colour each: leave 'by' out, or name one place")
        chosen, groups = _at_places(source, system, where, weighted, n, seed)
        grouping = Grouping(groups, "Colour: place on the map.")
    else:
        chosen = choose(source, weighted=weighted, n=n, seed=seed, place=where, system=system)  # type: ignore[arg-type]
        grouping = Grouping((), "") if by is None else grouped(by, chosen, source, system, n_clusters)
    caption = _caption(chosen, grouping, system, align)
    return View(chosen.x, chosen.rows, system, grouping.groups, caption, align)


def picture(
    source: Source,
    system: "System | None" = None,
    *,
    n: int | None = None,
    **choice: Any,
) -> "Figure":
    """The static picture of :func:`show`, with the same arguments; six conformations if not coloured.

    Raises:
        ConfigError: it is not clear what to show, or it cannot be drawn.
    """
    coloured = choice.get("by") is not None or isinstance(choice.get("where"), Mapping)
    return show(source, system, n=n or (50 if coloured else _SINGLE), **choice).figure


def shown_trajectory(
    x: NDArray[np.float64], system: "System", align: str | None = None
) -> "mdtraj.Trajectory":
    """Conformations ``(n, N, D)`` as an mdtraj trajectory for viewers, superposed on the first, nm.

    A molecule is superposed by the atoms ``align`` (mdtraj's language), its heavy ones if None, a cluster by
    rotation and by exchanging equal particles. Those become argon atoms, and the median distance to a nearest
    neighbour is scaled to 0.38 nm, which viewers are made for; what lies in a plane has z = 0.

    Raises:
        ConfigError: the system is neither a molecule nor a cluster, or there are no such atoms.
    """
    import mdtraj

    from bgdiff.analysis.alignment import superposed
    from bgdiff.analysis.cluster_geometry import contact_length, rigid_rotation
    from bgdiff.conformations import in_space, topology_of

    topology = topology_of(system)
    if topology is None:
        raise ConfigError(f"system {system.name} is neither a molecule nor a cluster: nothing to look at")
    if x.shape[1:] != system.target.event_shape:
        particles, dimensions = system.target.event_shape
        raise ConfigError(
            f"conformations of {system.name} have the shape (n, {particles}, {dimensions}), not {x.shape}"
        )
    if system.topology is None:
        x = superposed(x, x[0] - x[0].mean(0), _types(system)) * (_CONTACT / contact_length(x))
        return mdtraj.Trajectory(in_space(x).astype(np.float32), topology)
    atoms = heavy_atoms(topology) if align is None else _selected(topology, align)
    x = x - x[:, atoms].mean(1, keepdims=True)
    x = np.stack([points @ rigid_rotation(points[atoms], x[0, atoms]) for points in x])
    return mdtraj.Trajectory(x.astype(np.float32), topology)


def _at_places(
    source: Source,
    system: "System",
    places: Mapping[str, Any],
    weighted: bool,
    n: int,
    seed: int,
) -> tuple[Chosen, tuple[Group, ...]]:
    """What is at several places, and the groups that they are."""
    found = {
        name: choose(source, weighted=weighted, n=n, seed=seed, place=place, system=system)
        for name, place in places.items()
    }
    groups, start = [], 0
    for number, (name, one) in enumerate(found.items()):
        members = np.arange(start, start + len(one.rows))
        note = place_name(places[name]) + (f" (within {one.reach})" if one.reach else "")
        groups.append(Group(name, PALETTE[number % len(PALETTE)], members, note))
        start += len(members)
    drawn = "drawn in proportion to their weights" if weighted else "evenly spaced"
    how = (
        f"conformations from several places; near a point each once whatever its weight, in a region {drawn}"
    )
    x, rows = (np.concatenate([getattr(one, part) for one in found.values()]) for part in ("x", "rows"))
    return Chosen(x, rows, weighted, how), tuple(groups)


def _caption(chosen: Chosen, grouping: Grouping, system: "System", align: str | None) -> str:
    molecule = system.topology is not None
    atoms = f"atoms {align!r}" if align else "heavy atoms"
    how = f"by {atoms}" if molecule else "by rotation and exchange of equal particles"
    parts = [f"{unbroken(system.spec.title)}: {chosen.how}, superposed {how}."]
    if grouping.groups:
        parts += [grouping.meaning, "Hydrogens are left out."] if molecule else [grouping.meaning]
    elif len(chosen.rows) > _SINGLE:
        parts.append(f"The picture has {_SINGLE} of them.")
    return " ".join(parts)


def _bonds(topology: "mdtraj.Topology", atoms: NDArray[np.intp]) -> NDArray[np.intp]:
    """Bonds ``(M, 2)`` among some atoms, by their places among these."""
    place = {int(atom): k for k, atom in enumerate(atoms)}
    pairs = [(one.index, other.index) for one, other in topology.bonds]
    return np.array(
        [(place[a], place[b]) for a, b in pairs if a in place and b in place], dtype=np.intp
    ).reshape(-1, 2)


def _selected(topology: "mdtraj.Topology", align: str) -> NDArray[np.intp]:
    try:
        atoms = np.asarray(topology.select(align), dtype=np.intp)
    except ValueError as error:
        raise ConfigError(f"align={align!r}: is not a selection in mdtraj's language ({error})") from error
    if len(atoms) < 3:
        raise ConfigError(f"align={align!r}: selects {len(atoms)} atoms; at least 3 can be superposed")
    return atoms


def _check_shown(system: "System") -> None:
    from bgdiff.conformations import topology_of

    if topology_of(system) is None:
        raise ConfigError(f"system {system.name} is neither a molecule nor a cluster: nothing to look at")


def _types(system: "System") -> NDArray[np.int64] | None:
    types = system.particle_types
    return None if types is None else np.asarray(types.numpy())


def _system_of(source: Source, system: "System | None") -> "System":
    found = getattr(source, "system", None) or system
    if found is None:
        raise ConfigError("say which system these conformations are of: show(x, system)")
    return found
