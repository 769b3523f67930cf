"""Data made by bgdiff: start structures, chains that survive interruption, and their provenance."""

import json
import logging

import mdtraj
import numpy as np
import pytest
import torch
from molecules import switch_folder, switch_system, twist_difference, twist_system

from bgdiff.data.chains import run_chains
from bgdiff.data.generate import generate_data
from bgdiff.data.mala import mala_chains
from bgdiff.data.observables import dihedral
from bgdiff.data.simulator import simulator_of
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
        x = start_structure(molecule.openmm_system, molecule.structure, bonds, torsions)
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
    assert done == list(range(7, 16))  # three chains of equilibration and four chunks
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


def test_molecular_dynamics_on_the_batched_engine(tmp_path, monkeypatch):
    """Batches of walkers, chains in the order of their starts, resumed at any chunk to the same file."""
    monkeypatch.setattr("bgdiff.data.md._BATCH", 4)
    monkeypatch.setattr("bgdiff.data.md._STEPS_PER_CHUNK", 6_000)
    system = twist_system(tmp_path / "twist")
    whole = system.load_data(generate_data(system, tmp_path / "whole.dcd", seed=3, processes=1))
    for chunks in (1, 5, 8):
        with pytest.raises(KeyboardInterrupt):
            generate_data(system, tmp_path / "cut.dcd", seed=3, processes=1, progress=interrupt_after(chunks))
    cut = system.load_data(generate_data(system, tmp_path / "cut.dcd", seed=3, processes=1))
    assert torch.equal(cut.x, whole.x)
    assert cut.chain.unique(return_counts=True)[1].tolist() == [400] * 6
    provenance = json.loads((tmp_path / "cut.json").read_text())
    assert provenance["evaluator"].startswith("batched engine")
    phi = system.observables(whole.x)["phi"].reshape(6, 400)
    assert (np.abs(phi[:3, 0]) > np.pi / 2).all()
    assert (np.abs(phi[3:, 0]) < np.pi / 2).all()
    assert len({tuple(chain[:5]) for chain in phi}) == 6
    bond = (whole.x[:, 0] - whole.x[:, 1]).norm(dim=-1).reshape(6, 400)
    variance = 0.0083145 * 300 / 1e5
    assert bond.var(1).mean() == pytest.approx(variance, rel=0.15)


def test_parallel_tempering_makes_equilibrium_data(tmp_path):
    system = twist_system(tmp_path / "twist")
    out = generate_data(
        system, tmp_path / "a.dcd", seed=2, processes=1, method="parallel-tempering", frames=5000
    )
    data = system.load_data(out)
    provenance = json.loads((tmp_path / "a.json").read_text())
    assert provenance["command"] == (
        "bgdiff data generate twist --seed 2 --method parallel-tempering --frames 5000"
    )
    assert provenance["spacing_ps"] == pytest.approx(1.0)
    assert (
        provenance["chain_lengths"] == [40] * 128
    )  # 4 starts of 32 ladders; 40 · 128 is the first above 5000
    assert data.chain.unique(return_counts=True)[1].tolist() == [40] * 128
    inside = system.basin("cis", system.observables(data.x)).reshape(128, 40).mean(axis=1)
    exact = 1 / (1 + np.exp(twist_difference()))
    assert abs(inside.mean() - exact) < 4 * inside.std(ddof=1) / np.sqrt(128)
    energy = system.target.energy(data.x).reshape(128, 40)
    kinetic_like = (data.x * -system.target.energy_and_force(data.x)[1]).sum((1, 2)).reshape(128, 40).mean(1)
    assert abs(kinetic_like.mean() - 9) < 4 * kinetic_like.std() / np.sqrt(128)  # the virial of 3·4 - 3
    assert torch.isfinite(energy).all()
    assert provenance["convergence"]["phi"]["rhat"] < 1.1
    assert provenance["convergence"]["energy"]["effective_draws"] > 1500
    assert len(provenance["round_trips"]) == 4
    assert min(provenance["round_trips"]) > 0
    assert all(0.1 < rate < 1 for rate in provenance["swap_acceptance"])


def test_chunks_of_other_settings_are_not_continued(tmp_path):
    system = switch_system(tmp_path / "switch")
    out = tmp_path / "a.dcd"
    with pytest.raises(KeyboardInterrupt):
        generate_data(system, out, seed=1, processes=1, progress=interrupt_after(1))
    with pytest.raises(ConfigError, match=r"a\.dcd\.parts: holds an unfinished .* other settings \(seed\)"):
        generate_data(system, out, seed=2, processes=1)
    chunk = next((tmp_path / "a.dcd.parts").glob("*state*.npz"))
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"npz: missing or corrupt .* delete .*parts and run"):
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
        simulator_of(load_system("double_well"), [], 1.0, 1.0)
    for system, method in ((load_system("double_well"), "md"), (switch_system(tmp_path / "switch"), "mala")):
        with pytest.raises(ConfigError, match=f"method {method}: is not one for a"):
            generate_data(system, tmp_path / "a.dcd", method=method)
    for method, frames in (("md", 10), ("parallel-tempering", 0)):
        with pytest.raises(ConfigError, match="frames: a positive number, and only for parallel"):
            generate_data(load_system(tmp_path / "switch"), tmp_path / "a.dcd", method=method, frames=frames)


def test_resuming_is_logged(tmp_path, caplog):
    system = switch_system(tmp_path / "switch")
    with pytest.raises(KeyboardInterrupt):
        generate_data(system, tmp_path / "a.dcd", processes=1, progress=interrupt_after(2))
    with caplog.at_level(logging.INFO, logger=run_chains.__module__):
        generate_data(system, tmp_path / "a.dcd", processes=1)
    assert "resuming an unfinished calculation" in caplog.text
