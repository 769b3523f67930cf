"""nglview widgets of conformations: played one after the other, or superposed and coloured by group."""

import json
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bgdiff.analysis.view_groups import Group
from bgdiff.errors import BgdiffError

if TYPE_CHECKING:
    import mdtraj
    import nglview

__all__ = ["MissingViewerError", "frontend_version", "overlaid", "played"]


class MissingViewerError(BgdiffError):
    """nglview is not installed."""


def played(trajectory: "mdtraj.Trajectory", *, molecule: bool) -> "nglview.NGLWidget":
    """One conformation at a time, with a slider.

    Raises:
        MissingViewerError: nglview is not installed.
    """
    widget = _nglview().show_mdtraj(trajectory, default_representation=False, **_versions())
    if molecule:
        widget.add_representation("ball+stick", selection="all")
    else:
        widget.add_representation("spacefill", selection="all", radius_type="size", radius=1.3)
    widget.center()
    return widget


def overlaid(
    trajectory: "mdtraj.Trajectory", groups: Sequence[Group], *, molecule: bool
) -> "nglview.NGLWidget":
    """All conformations at once, one colour for each group; hydrogens of molecules are left out.

    Raises:
        MissingViewerError: nglview is not installed.
    """
    nglview = _nglview()
    widget = nglview.NGLWidget(**_versions())
    widget.add_component(nglview.TextStructure(_models(trajectory), ext="pdb"), default_representation=False)
    for group in groups:
        models = " or ".join(f"/{member}" for member in group.members)
        if molecule:
            widget.add_representation(
                "licorice", selection=f"({models}) and not hydrogen", color=group.colour, radius=0.12
            )
        else:
            widget.add_representation(
                "spacefill", selection=models, color=group.colour, radius_type="size", radius=0.4
            )
    widget.center()
    return widget


def _models(trajectory: "mdtraj.Trajectory") -> str:
    """A PDB file with one model for each conformation: colours are given to models."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "models.pdb"
        trajectory.save_pdb(str(path))
        return path.read_text(encoding="ascii")


def frontend_version() -> str | None:
    """Version of the JavaScript that came with nglview; None if that cannot be told.

    Widgets name the version they want, and JupyterLab draws nothing if it has another. nglview 4.0 and 4.0.1
    name one that they do not come with (https://github.com/nglviewer/nglview/issues/1172, 1181).
    """
    try:
        files = metadata.files("nglview") or []
        (package,) = (file for file in files if file.match("labextensions/nglview-js-widgets/package.json"))
        return str(json.loads(Path(str(package.locate())).read_text(encoding="utf-8"))["version"])
    except (metadata.PackageNotFoundError, OSError, ValueError, KeyError):
        return None


def _versions() -> dict[str, str]:
    """Arguments of a widget that make it name the JavaScript that is there."""
    version = frontend_version()
    return {f"_{part}_module_version": version for part in ("model", "view")} if version else {}


def _nglview() -> Any:
    version = frontend_version()
    if version and "nglview" not in sys.modules:
        # importing it makes a widget already (of colours), which gets the version from here
        frontend = ModuleType("nglview._frontend")
        frontend.__frontend_version__ = version  # type: ignore[attr-defined]
        sys.modules["nglview._frontend"] = frontend
    try:
        import nglview
    except ImportError as error:
        raise MissingViewerError(
            "nglview is not installed; install it with: pip install nglview ipywidgets, or look at "
            "bgdiff.analysis.view.picture instead"
        ) from error
    return nglview
