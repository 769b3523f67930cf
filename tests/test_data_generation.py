"""Data made by bgdiff: start structures, chains that survive interruption, and their provenance."""

import json
import logging

import mdtraj
import numpy as np
import pytest
import torch
from molecules import switch_folder, switch_system

from bgdiff.data.chains import run_chains
from bgdiff.data.generate import generate_data, molecule_of
from bgdiff.data.mala import mala_chains
from bgdiff.data.observables import dihedral
from bgdiff.data.starts import set_torsion, start_structure
from bgdiff.errors import ConfigError, DataError, StorageError, SystemDefinitionError
from bgdiff.random import generator_for
from bgdiff.systems import load_system
from bgdiff.targets.double_well import DoubleWell

PHI, PSI = (4, 6, 8, 14), (6, 8, 14, 16)


@pytest.fixture(scope="module")
def molecule():
    return load_system("alanine_dipeptide_vacuum")


@pytest.fixture(scope="module")
def bonds(molecule):
    return [(first.index, second.index) for first, second in molecule.topology.bonds]


def interrupt_after(chunks):
    """Return a progress callback that behaves like Ctrl-C once so many chunks are done."""

    def progress(done, total, text=""):
        if done == chunks:
            raise KeyboardInterrupt

    return progress


def handedness(x):
    """Signed volume at the alpha carbon: its sign is the chirality."""
    return np.linalg.det(np.array([x[6] - x[8], x[14] - x[8], x[10] - x[8]]))


@pytest.mark.parametrize(("phi", "psi"), [(-80, 75), (60, -60), (179, -179), (0, 0)])
def test_a_torsion_is_set_exactly_and_alone(molecule, bonds, phi, psi):
    x = molecule.structure + np.random.default_rng(2).normal(scale=0.01, size=(22, 3))
    turned = set_torsion(set_torsion(x, bonds, PHI, np.radians(phi)), bonds, PSI, np.radians(psi))
    found = [np.degrees(dihedral(turned[None], atoms)[0]) for atoms in (PHI, PSI)]
    np.testing.assert_allclose(found, [phi, psi], atol=1e-9)
    for first, second in bonds:
        length = np.linalg.norm(x[first] - x[second])
        assert np.linalg.norm(turned[first] - turned[second]) == pytest.approx(length, rel=1e-12)
    assert handedness(turned) == pytest.approx(handedness(x), rel=1e-9)


def test_torsions_that_cannot_be_set(molecule, bonds):
    with pytest.raises(SystemDefinitionError, match="atoms 4 and 8 are not bonded"):
        set_torsion(molecule.structure, bonds, (6, 4, 8, 14), 0.0)
    with pytest.raises(SystemDefinitionError, match="part of a ring"):
        set_torsion(molecule.structure, [*bonds, (4, 14)], PHI, 0.0)


def test_start_structures_are_relaxed_where_they_were_put(molecule, bonds):
    for phi, psi in [(-80, 75), (60, -60)]:
        torsions = {PHI: np.radians(phi), PSI: np.radians(psi)}
        x = start_structure(molecule.target.system, molecule.structure, bonds, torsions)
        found = [np.degrees(dihedral(x[None], atoms)[0]) for atoms in (PHI, PSI)]
        np.testing.assert_allclose(found, [phi, psi], atol=15)
        relaxed, stretched = molecule.target.energy(torch.from_numpy(np.stack([x, molecule.structure])))
        assert relaxed < stretched
        assert handedness(x) * handedness(molecule.structure) > 0


def test_an_interrupted_generation_resumes_to_the_same_file(tmp_path):
    system = switch_system(tmp_path / "switch")
    whole = generate_data(system, tmp_path / "whole.dcd", seed=3, processes=1)
    for chunks in (1, 4, 7):
        with pytest.raises(KeyboardInterrupt):
            generate_data(system, tmp_path / "cut.dcd", seed=3, processes=1, progress=interrupt_after(chunks))
        assert not (tmp_path / "cut.dcd").exists()
    done = []
    cut = generate_data(system, tmp_path / "cut.dcd", 3, 1, lambda done_, total, text="": done.append(done_))
    assert done == [7, 8, 9, 10, 11, 12]
    assert torch.equal(system.load_data(cut).x, system.load_data(whole).x)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("cut")) == [
        "cut.dcd",
        "cut.json",
    ]


def test_chains_do_not_depend_on_the_number_of_processes(tmp_path):
    system = switch_system(tmp_path / "switch")
    one = system.load_data(generate_data(system, tmp_path / "one.dcd", seed=5, processes=1))
    two = system.load_data(generate_data(system, tmp_path / "two.dcd", seed=5, processes=2))
    other = system.load_data(generate_data(system, tmp_path / "other.dcd", seed=6, processes=1))
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.chain, two.chain)
    assert not torch.equal(one.x, other.x)


def test_generated_data_and_their_provenance(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    system = switch_system(tmp_path / "switch")
    out = generate_data(system, seed=1, processes=1)
    assert out.name == "switch.dcd"
    assert mdtraj.load(str(out), top=system.topology).n_frames == 6000
    provenance = json.loads((tmp_path / "switch.json").read_text())
    assert provenance["chain_lengths"] == [2000, 2000, 2000]
    assert provenance["command"] == "bgdiff data generate switch --seed 1"
    assert provenance["ensemble_digest"] == system.ensemble_digest
    data = system.load_data(out)
    assert data.chain.unique(return_counts=True)[1].tolist() == [2000] * 3
    first, second = data.x[:2000], data.x[2000:4000]
    assert not torch.equal(first, second)  # the same start, but other random numbers
    with pytest.raises(ConfigError, match=r"switch\.dcd: exists already"):
        generate_data(system, processes=1)


def test_chunks_of_other_settings_are_not_continued(tmp_path):
    system = switch_system(tmp_path / "switch")
    out = tmp_path / "a.dcd"
    with pytest.raises(KeyboardInterrupt):
        generate_data(system, out, seed=1, processes=1, progress=interrupt_after(1))
    with pytest.raises(ConfigError, match=r"a\.dcd\.parts: holds an unfinished .* other settings \(seed\)"):
        generate_data(system, out, seed=2, processes=1)
    chunk = next((tmp_path / "a.dcd.parts").glob("*.npz"))
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"npz: corrupt"):
        generate_data(system, out, seed=1, processes=1)


def test_generation_that_is_not_possible(tmp_path):
    folder = switch_folder(tmp_path / "switch")
    with pytest.raises(ConfigError, match="processes must be at least 1"):
        generate_data(load_system(folder), tmp_path / "a.dcd", processes=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        generate_data(load_system(folder), tmp_path / "file" / "a.dcd", processes=1)
    with pytest.raises(StorageError, match=r"a\.zebra: mdtraj cannot write it"):
        generate_data(load_system(folder), tmp_path / "a.zebra", processes=1)
    assert not (tmp_path / "a.zebra.parts").exists()  # noticed before the simulation
    with pytest.raises(ConfigError, match=r"\.json beside the data is for their provenance"):
        generate_data(load_system(folder), tmp_path / "a.json", processes=1)
    text = (folder / "system.yaml").read_text()
    (folder / "system.yaml").write_text(text.replace("generate:", "# generate:"))
    with pytest.raises(SystemDefinitionError, match="has no 'generate' section"):
        generate_data(load_system(folder), tmp_path / "b.dcd", processes=1)


def test_an_unstable_simulation_is_told(tmp_path):
    folder = switch_folder(tmp_path / "switch")
    text = (folder / "system.yaml").read_text()
    (folder / "system.yaml").write_text(
        text.replace("equilibration_ps: 1.0", "step_fs: 2.0, equilibration_ps: 0")
    )
    xml = (folder / "system.xml").read_text()
    (folder / "system.xml").write_text(xml.replace('mass="10"', 'mass=".00001"'))
    with pytest.raises(DataError, match=r"exploded .*generate\.step_fs"):
        generate_data(load_system(folder), tmp_path / "a.dcd", processes=1)


def test_double_well_data_are_reproduced(tmp_path):
    system = load_system("double_well")
    out = generate_data(system, tmp_path / "new.npz")
    same = torch.isclose(system.load_data(out).x, system.load_data().x)
    assert same.double().mean() > 0.9  # on another processor, rounding may turn the course of a chain
    provenance = json.loads((tmp_path / "new.json").read_text())
    assert provenance["chain_lengths"] == [1000] * 32


def test_mala_samples_its_target_however_long_its_steps():
    target = DoubleWell(0.3, 0.5, 0.4)  # one well
    start = torch.zeros((64, 1, 2), dtype=torch.float64)
    frames, accepted = mala_chains(
        target, start, step=0.6, frames=1000, spacing=1, equilibration=50, generator=generator_for(7, "test")
    )
    assert 0.4 < accepted < 0.9  # far from where the unadjusted chain would be right
    x = np.linspace(-6, 6, 20_001)
    density = np.exp(-(0.3 * x + 0.5 * x**2 + 0.4 * x**4))
    for power in (1, 2, 4):
        exact = np.average(x**power, weights=density)
        means = (frames[:, :, 0, 0] ** power).mean(1).numpy()
        assert abs(means.mean() - exact) / (means.std(ddof=1) / 8) < 4
    squares = (frames[:, :, 0, 1] ** 2).mean(1).numpy()
    assert abs(squares.mean() - 1) / (squares.std(ddof=1) / 8) < 4


def test_molecules_only(tmp_path):
    with pytest.raises(SystemDefinitionError, match="is not a molecule"):
        molecule_of(load_system("double_well"), [])


def test_resuming_is_logged(tmp_path, caplog):
    system = switch_system(tmp_path / "switch")
    with pytest.raises(KeyboardInterrupt):
        generate_data(system, tmp_path / "a.dcd", processes=1, progress=interrupt_after(2))
    with caplog.at_level(logging.INFO, logger=run_chains.__module__):
        generate_data(system, tmp_path / "a.dcd", processes=1)
    assert "resuming an unfinished calculation" in caplog.text
