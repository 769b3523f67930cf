"""Potentials that depend on where a molecule is are refused where coordinates leave that out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from molecules import twist_folder

from bgdiff.errors import SystemDefinitionError
from bgdiff.systems import load_system
from bgdiff.targets.openmm import OpenMMTarget
from bgdiff.targets.placement import check_free_placement


def restrained() -> openmm.Force:
    force = openmm.CustomExternalForce("100*(x^2 + y^2 + z^2)")
    for index in range(4):
        force.addParticle(index, [])
    return force


def in_a_field() -> openmm.Force:
    """No net force: moving changes nothing, turning does."""
    force = openmm.CustomCompoundBondForce(2, "50*(x2 - x1)")
    force.addBond([0, 3], [])
    return force


def kept_near_a_structure() -> openmm.Force:
    """RMSD after superposition does not know where the molecule is."""
    force = openmm.CustomCVForce("30*rmsd")
    positions = np.random.default_rng(0).random((4, 3)).tolist()
    force.addCollectiveVariable("rmsd", openmm.RMSDForce(positions, [0, 1, 2, 3]))
    return force


def folder_with(folder: Path, force: openmm.Force) -> Path:
    twist_folder(folder)
    system = load_system(folder).openmm_system
    system.addForce(force)
    (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    return folder


@pytest.mark.parametrize(
    ("force", "name"), [(restrained, "CustomExternalForce"), (in_a_field, "CustomCompoundBondForce")]
)
def test_restraints_in_space_are_refused(
    tmp_path: Path, force: Callable[[], openmm.Force], name: str
) -> None:
    system = load_system(folder_with(tmp_path / "twist", force()))
    with pytest.raises(SystemDefinitionError, match=rf"system.xml: .*place.*{name}.*instead"):
        _ = system.target


def test_internal_restraints_are_not(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "twist", kept_near_a_structure())
    system = load_system(folder)
    assert system.target.event_shape == (4, 3)
    with pytest.raises(SystemDefinitionError, match="place"):  # the same check does see a field
        check_free_placement(
            load_openmm(folder_with(tmp_path / "field", in_a_field())), system.structure, folder
        )


def test_a_clash_is_not_taken_for_a_field(tmp_path: Path) -> None:
    target = load_openmm(folder_with(tmp_path / "twist", kept_near_a_structure()))
    check_free_placement(target, np.full((4, 3), 0.1), tmp_path)
    assert not torch.isfinite(target.energy(torch.full((1, 4, 3), 0.1))).all()


def load_openmm(folder: Path) -> OpenMMTarget:
    return OpenMMTarget(load_system(folder).openmm_system, 300.0)
