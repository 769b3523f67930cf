"""Which evaluator a molecule gets, that it makes no difference, and that runs record it."""

import logging
import pickle

import openmm
import pytest
import torch
from checks import seeded
from molecules import switch_system
from peptides import peptide, peptide_structure, peptide_system
from torch import Tensor

from bgdiff.errors import SystemDefinitionError, UnsupportedSystem
from bgdiff.io import read_json
from bgdiff.run import start_run
from bgdiff.systems import load_system
from bgdiff.targets.choose import describe_target, molecular_target
from bgdiff.targets.double_well import DoubleWell
from bgdiff.targets.forcefield import ForceFieldTarget
from bgdiff.targets.openmm import OpenMMTarget


@pytest.fixture(scope="module")
def molecule():
    return load_system("alanine_dipeptide_vacuum")


def around(structure: Tensor, batch: int) -> Tensor:
    noise = torch.randn((batch, *structure.shape), generator=seeded(1), dtype=torch.float64)
    return structure + 0.005 * noise


def test_a_covered_molecule_gets_the_engine_and_the_same_energies(molecule, caplog):
    """In kT and kT/nm, against OpenMM in double precision."""
    target = molecular_target(molecule.openmm_system, molecule.temperature)
    assert isinstance(target, ForceFieldTarget)
    assert type(molecule.target) is ForceFieldTarget
    assert not [record for record in caplog.records if record.name == "bgdiff.targets.choose"]
    slow = molecular_target(molecule.openmm_system, molecule.temperature, engine="openmm")
    assert isinstance(slow, OpenMMTarget)
    x = around(torch.from_numpy(molecule.structure), 20)
    for found, expected in zip(target.energy_and_force(x), slow.energy_and_force(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_torch_can_be_asked_for(molecule):
    target = molecular_target(molecule.openmm_system, molecule.temperature, engine="torch")
    x = around(torch.from_numpy(molecule.structure), 5)
    assert "torch" in describe_target(target)
    torch.testing.assert_close(target.energy(x), molecule.target.energy(x), rtol=0, atol=1e-9)


def test_an_implicit_solvent_is_covered(molecule):
    topology = peptide("ALA")
    system = peptide_system(topology, "ff96", "OBC1")
    x = around(torch.from_numpy(peptide_structure(topology)), 5)
    target = molecular_target(system, 300.0)
    assert isinstance(target, ForceFieldTarget)
    slow = OpenMMTarget(system, 300.0, "Reference")
    torch.testing.assert_close(target.energy(x), slow.energy(x), rtol=0, atol=1e-9)


def test_what_is_not_covered_falls_back_with_one_line_that_says_why(tmp_path, caplog):
    system = switch_system(tmp_path / "switch")
    with caplog.at_level(logging.INFO, logger="bgdiff"):
        target = system.target
        target.energy(torch.from_numpy(system.structure)[None])
        assert system.target is target
    (record,) = (record for record in caplog.records if record.name == "bgdiff.targets.choose")
    assert record.levelno == logging.WARNING
    assert "CustomBondForce" in record.getMessage()
    assert "OpenMM's Reference platform" in record.getMessage()
    assert isinstance(target, OpenMMTarget)
    for engine in ("kernel", "torch"):
        with pytest.raises(UnsupportedSystem, match="CustomBondForce"):
            molecular_target(system.openmm_system, 300.0, engine=engine)


def test_what_has_no_density_is_refused_whatever_the_engine():
    constrained = openmm.System()
    for _ in range(2):
        constrained.addParticle(1.0)
    constrained.addConstraint(0, 1, 0.1)
    for engine in ("auto", "kernel", "torch", "openmm"):
        with pytest.raises(SystemDefinitionError, match="1 constraints"):
            molecular_target(constrained, 300.0, engine=engine)


def test_targets_travel(molecule):
    x = around(torch.from_numpy(molecule.structure), 3)
    for engine in ("auto", "torch", "openmm"):
        target = molecular_target(molecule.openmm_system, molecule.temperature, engine=engine)
        copy = pickle.loads(pickle.dumps(target))
        assert type(copy) is type(target)
        assert torch.equal(copy.energy(x), target.energy(x))
        assert describe_target(copy) == describe_target(target)


def test_a_run_records_what_evaluates_it(tmp_path, molecule):
    for name, target in (("double_well", DoubleWell()), (molecule.name, molecule.target)):
        folder = start_run(name, tmp_path / name, preset="quick")
        assert read_json(folder / "run.json")["versions"]["energies"] == describe_target(target)


def test_descriptions(molecule):
    assert describe_target(DoubleWell()) == "DoubleWell(a=1, b=-4, c=1)"
    slow = molecular_target(molecule.openmm_system, 300.0, engine="openmm")
    assert describe_target(slow) == f"OpenMM {openmm.__version__}, Reference platform"
    texts = {describe_target(t) for t in (slow, molecule.target)}
    assert len(texts) == 2
    assert all("\n" not in text and len(text) < 100 for text in texts)
