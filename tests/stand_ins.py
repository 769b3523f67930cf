"""Files that the documents' commands take for granted, such as a user's own trajectory or a finished run."""

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mdtraj
import numpy as np
from documents import ROOT
from structures import is_hydrogen, pdb_lines, without, write_pdb

from bgdiff.run import run_all, start_run
from bgdiff.systems import load_system

__all__ = ["STAND_INS", "finished_run"]

_MOLECULE = "alanine_dipeptide_vacuum"


def finished_run(folder: Path, system: str) -> Path:
    """A run of the quick preset, made if it is not in the folder yet."""
    path = folder / system
    return path if path.is_dir() else run_all(start_run(system, path, preset="quick")).path


def _run(system: str, path: Path, shared: Path) -> None:
    shutil.copytree(finished_run(shared, system), path)


def _structure(path: Path, shared: Path) -> None:
    """Heavy atoms of ACE-ALA-ALA-NME."""
    write_pdb(path, without(pdb_lines("ALA", "ALA"), is_hydrogen))


def _trajectory(path: Path, shared: Path, *, water: bool = False) -> None:
    """Half a picosecond from frame to frame, the second backwards; two molecules of water or none."""
    system = load_system(_MOLECULE)
    assert system.topology is not None
    topology, x = system.topology.copy(), system.load_data().x.numpy()
    x = x[::-1] if path.stem == "second" else x
    for place in range(2 * water):
        residue = topology.add_residue("HOH", topology.add_chain())
        for name, offset in (("O", 0.0), ("H1", 0.06), ("H2", -0.06)):
            topology.add_atom(name, mdtraj.element.Element.getBySymbol(name[0]), residue)
            atom = np.broadcast_to([2.0 + place, 2.0 + offset, abs(offset)], (len(x), 1, 3))
            x = np.concatenate([x, atom], axis=1)
    frames = mdtraj.Trajectory(x.astype(np.float32), topology, time=0.5 * np.arange(len(x)))
    (frames[0] if path.suffix == ".gro" else frames).save(str(path))


def _molecule_without_data(path: Path, shared: Path) -> None:
    source = load_system(_MOLECULE).path
    shutil.copytree(source, path, ignore=shutil.ignore_patterns("data", "*.json", "*.md"))
    text = re.sub(r"(?m)^reference:.*\n", "", (path / "system.yaml").read_text(encoding="utf-8"))
    text = text.replace(f"name: {_MOLECULE}", f"name: {path.name}").partition("\ntransformations:")[0]
    (path / "system.yaml").write_text(text, encoding="utf-8")


def _cluster(path: Path, shared: Path) -> None:
    """That of the guide."""
    guide = (ROOT / "docs" / "your-own-system.md").read_text(encoding="utf-8")
    (definition,) = re.findall(r"```yaml\n(name: my_cluster\n.*?)```", guide, flags=re.DOTALL)
    path.mkdir()
    (path / "system.yaml").write_text(definition, encoding="utf-8")


def _whole(path: Path, shared: Path) -> None:
    shutil.copy(load_system(_MOLECULE).path / "topology.pdb", path)


def _entry_of_chignolin(path: Path, shared: Path) -> None:
    """Its heavy atoms, 0.08 nm from where the entry has them; the page makes the hydrogens anew."""
    shutil.copy(ROOT / "systems" / "chignolin" / "topology.pdb", path)


def _of_the_clone(path: Path, shared: Path) -> None:
    shutil.copy(ROOT / path.relative_to(Path.cwd()), path)


StandIn = Callable[[Path, Path], None]
STAND_INS: dict[str, StandIn] = {
    "tripeptide.pdb": _structure,
    "my.pdb": _structure,
    "input.pdb": _whole,
    "1uao.pdb": _entry_of_chignolin,
    "my.dcd": _trajectory,
    "first.xtc": partial(_trajectory, water=True),
    "second.xtc": partial(_trajectory, water=True),
    "solvated.gro": partial(_trajectory, water=True),
    "my_molecule": _molecule_without_data,
    "my_cluster": _cluster,
    "systems/tetra_alanine/topology.pdb": _of_the_clone,
    "runs/ala": partial(_run, _MOLECULE),
    "runs/ala-vacuum": partial(_run, _MOLECULE),
    "runs/vacuum": partial(_run, _MOLECULE),
    "runs/ala-water": partial(_run, "alanine_dipeptide_obc1"),
    "runs/water": partial(_run, "alanine_dipeptide_obc1"),
}
"""Called with the path and a folder in which finished runs are shared."""
