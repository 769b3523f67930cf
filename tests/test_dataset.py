"""Data sets: the shipped ones are sound, splits are honest, and damaged input is named."""

import json
import logging
import shutil
from types import SimpleNamespace

import mdtraj
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bgdiff.data.dataset import Dataset
from bgdiff.data.trajectories import check_atoms
from bgdiff.errors import ConfigError, DataError
from bgdiff.systems import load_system
from bgdiff.targets.choose import molecular_target


@pytest.fixture(scope="module")
def molecule():
    return load_system("alanine_dipeptide_vacuum")


@pytest.fixture(scope="module")
def data(molecule):
    return molecule.load_data()


@pytest.fixture(scope="module")
def frames(data):
    """Return 300 sound frames ``(300, 22, 3)`` float32, nm."""
    return data.x[:3000:10].numpy().astype(np.float32)


def save(system, x, path):
    mdtraj.Trajectory(np.asarray(x, dtype=np.float32), system.topology).save(str(path))
    return path


def virial_z_score(system, dataset, freedom):
    """Deviation of ⟨x·∇u⟩ from the number of degrees of freedom, in standard errors from blocks of chains."""
    thinned = dataset.select(torch.arange(0, len(dataset), max(1, len(dataset) // 16_000)))
    _, force = system.target.energy_and_force(thinned.x)
    virial = -(thinned.x * force).sum((1, 2)).numpy()
    blocks = []
    for chain in thinned.chain.unique():
        mine = virial[(thinned.chain == chain).numpy()]
        blocks += [block.mean() for block in np.array_split(mine, 4)]
    return (np.mean(blocks) - freedom) / (np.std(blocks, ddof=1) / np.sqrt(len(blocks)))


def test_alanine_dipeptide_data_satisfy_the_virial_identity(molecule, data):
    assert abs(virial_z_score(molecule, data, 3 * 22 - 3)) < 4


def test_double_well_data_satisfy_the_virial_identity():
    system = load_system("double_well")
    assert abs(virial_z_score(system, system.load_data(), 2)) < 4


def test_the_virial_identity_notices_a_wrong_temperature(molecule, data):
    wrong = SimpleNamespace(
        target=molecular_target(molecule.openmm_system, temperature=1.15 * molecule.temperature)
    )
    assert abs(virial_z_score(wrong, data, 3 * 22 - 3)) > 4


def test_shipped_data_hold_every_basin_in_wrong_proportion(molecule, data):
    assert len(data) == 52_000
    assert data.n_dropped == 0
    assert torch.bincount(data.chain).tolist() == data.provenance["chain_lengths"]
    assert data.x.mean(1).abs().max() < 1e-7
    positive = molecule.basin("phi_positive", molecule.observables(data.x)).mean()
    assert 0.1 < positive < 0.3  # about 0.01 in equilibrium
    well = load_system("double_well")
    points = well.load_data()
    right = well.basin("right", well.observables(points.x)).mean()
    assert 0.15 < right < 0.25  # 0.067 in equilibrium


def test_split_keeps_whole_stretches_of_time_apart(data):
    training, held_out = data.split(0.1, seed=4)
    assert len(held_out) == 5_200
    assert len(training) + len(held_out) == len(data)
    assert held_out.chain.unique().tolist() == list(range(32))
    joined = torch.cat([training.x, held_out.x])
    assert torch.equal(joined.sort(0).values, data.x.sort(0).values)
    steps = (held_out.x[1:] - held_out.x[:-1]).abs().amax((1, 2))
    known = (data.x[1:] - data.x[:-1]).abs().amax((1, 2))
    breaks = int((~torch.isin(steps, known)).sum())
    assert breaks < 5 * 32  # five windows in each chain; all other successors are successors in time


def test_split_depends_on_the_seed_alone(data):
    first, again, other = (data.split(0.1, seed=seed)[1].x for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8), percent=st.integers(1, 90))
def test_split_is_a_partition_of_any_chains(lengths, percent):
    count = sum(lengths)
    x = torch.arange(count, dtype=torch.float64)[:, None, None]
    chain = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    dataset = Dataset(x, chain)
    if int(percent / 100 * count + 1e-9) == 0:
        with pytest.raises(DataError, match="too small"):
            dataset.split(percent / 100)
        return
    training, held_out = dataset.split(percent / 100)
    assert len(held_out) == int(percent / 100 * count + 1e-9)
    assert sorted([*training.x.flatten().tolist(), *held_out.x.flatten().tolist()]) == list(range(count))


def test_split_of_nonsense(data):
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="held_out"):
            data.split(fraction)
    assert len(data.split(0.0)[1]) == 0


@pytest.mark.parametrize("suffix", [".dcd", ".xtc", ".h5", ".pdb", ".nc", ".npy", ".npz"])
def test_users_trajectories_in_many_formats(molecule, frames, tmp_path, suffix):
    if suffix == ".h5":
        pytest.importorskip("tables")
    path = tmp_path / f"mine{suffix}"
    if suffix == ".npy":
        np.save(path, frames)
    elif suffix == ".npz":
        np.savez(path, x=frames)
    else:
        save(molecule, frames + 1.0, path)
    dataset = molecule.load_data(path)
    precision = 2e-3 if suffix in (".xtc", ".pdb") else 2e-6
    np.testing.assert_allclose(dataset.x.numpy(), frames, atol=precision)
    assert dataset.x.dtype == torch.float64
    assert dataset.chain.unique().tolist() == [0]


def test_several_files_are_several_chains(molecule, frames, tmp_path):
    files = [
        save(molecule, frames[:100], tmp_path / "a.dcd"),
        save(molecule, frames[100:], tmp_path / "b.nc"),
    ]
    dataset = molecule.load_data(files)
    assert torch.bincount(dataset.chain).tolist() == [100, 200]
    with pytest.raises(DataError, match="list of trajectories is empty"):
        molecule.load_data([])


def test_reading_prints_nothing(molecule, frames, tmp_path, capfd):
    molecule.load_data(save(molecule, frames, tmp_path / "a.dcd"))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_missing_empty_and_truncated_files(molecule, frames, tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.dcd: there is no such file"):
        molecule.load_data(tmp_path / "nowhere.dcd")
    (tmp_path / "empty.dcd").touch()
    with pytest.raises(DataError, match=r"empty\.dcd: is empty"):
        molecule.load_data(tmp_path / "empty.dcd")
    for suffix in (".dcd", ".xtc", ".pdb", ".npz"):
        (tmp_path / f"text{suffix}").write_text("this is no trajectory\n" * 20)
        with pytest.raises(DataError, match=f"text{suffix}"):
            molecule.load_data(tmp_path / f"text{suffix}")
    np.savez(tmp_path / "none.npz", x=frames[:0])
    with pytest.raises(DataError, match="holds no frames"):
        molecule.load_data(tmp_path / "none.npz")
    np.savez(tmp_path / "cut.npz", x=frames)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-500])
    with pytest.raises(DataError, match=r"cut\.npz"):
        molecule.load_data(tmp_path / "cut.npz")


def test_arrays_of_the_wrong_kind(frames, tmp_path):
    well = load_system("double_well")
    for name, content in (
        ("shape", frames),
        ("text", np.array(["a"])),
        ("whole", np.ones((5, 1, 2), dtype=int)),
    ):
        np.save(tmp_path / f"{name}.npy", content)
        with pytest.raises(DataError, match=r"must hold floating-point numbers of shape \(n, 1, 2\)"):
            well.load_data(tmp_path / f"{name}.npy")
    np.savez(tmp_path / "key.npz", y=np.ones((5, 1, 2)))
    with pytest.raises(DataError, match="has no array 'x'"):
        well.load_data(tmp_path / "key.npz")
    np.save(tmp_path / "flat.npy", np.ones((5, 2)))
    assert well.load_data(tmp_path / "flat.npy").x.shape == (5, 1, 2)


@pytest.mark.parametrize("suffix", [".dcd", ".xtc", ".nc", ".pdb", ".gro"])
def test_a_wrong_number_of_atoms_is_told(molecule, frames, tmp_path, suffix):
    trajectory = mdtraj.Trajectory(frames, molecule.topology).atom_slice(range(20))
    trajectory.save(str(tmp_path / f"few{suffix}"))
    with pytest.raises(DataError, match="has 20 atoms, but the system has 22"):
        molecule.load_data(tmp_path / f"few{suffix}")


def test_the_first_atom_out_of_order_is_named(molecule, tmp_path, caplog):
    renamed = molecule.topology.copy()
    for index, name in ((0, "HH31"), (2, "HH32")):
        renamed.atom(index).name = name
    with caplog.at_level(logging.WARNING):
        check_atoms(tmp_path, renamed, molecule.topology)
    assert "2 atoms have other names" in caplog.text
    swapped = molecule.topology.copy()
    swapped.atom(11).name, swapped.atom(12).name = "HB2", "HB1"
    with pytest.raises(DataError, match=r"atom 11 is ALA2-HB2 \(H\), but the system has ALA2-HB1"):
        check_atoms(tmp_path, swapped, molecule.topology)
    swapped.atom(5).element = mdtraj.element.sulfur
    with pytest.raises(DataError, match=r"atom 5 is ACE1-O \(S\), but the system has ACE1-O \(O\)"):
        check_atoms(tmp_path, swapped, molecule.topology)


def test_atoms_shuffled_in_a_file_that_names_none(molecule, frames, tmp_path):
    order = list(range(22))[::-1]
    path = save(molecule, frames[:, order], tmp_path / "shuffled.dcd")
    with pytest.raises(
        DataError, match=r"300 of 300 frames are faulty: 300 with a broken bond .*atoms are in the"
    ):
        molecule.load_data(path)


def test_a_wrong_unit_is_noticed(molecule, frames, tmp_path):
    np.save(tmp_path / "angstrom.npy", frames * 10)
    with pytest.raises(DataError, match=r"broken bond .*Check that coordinates are in the unit"):
        molecule.load_data(tmp_path / "angstrom.npy")


def faulty(frames):
    x = frames.copy()
    x[40, 3, 1] = np.nan
    x[250, 21] += 2.0
    return x


def test_few_faulty_frames_are_named_counted_and_dropped(molecule, frames, tmp_path, caplog):
    np.save(tmp_path / "mine.npy", faulty(frames))
    with caplog.at_level(logging.WARNING):
        dataset = molecule.load_data(tmp_path / "mine.npy")
    assert dataset.n_dropped == 2
    assert len(dataset) == len(dataset.chain) == 298
    assert "2 of 300 frames are faulty" in caplog.text
    assert "1 with coordinates that are not finite (frame 40)" in caplog.text
    assert "1 with a broken bond (frame 250; NME3-C to NME3-H3" in caplog.text
    np.testing.assert_allclose(dataset.x[40].numpy(), frames[41], atol=1e-6)


def test_many_faulty_frames_are_refused(molecule, frames, tmp_path):
    x = faulty(frames)
    x[100] = 0.0  # all atoms in one place: the energy is not finite
    x[101] *= 0.6  # every bond compressed
    np.save(tmp_path / "mine.npy", x)
    with pytest.raises(DataError, match="4 of 300 frames are faulty") as error:
        molecule.load_data(tmp_path / "mine.npy")
    assert "an energy that is not finite (frame 100)" in str(error.value)
    assert "an absurd energy (frame 101; " in str(error.value)


@pytest.fixture
def copied_well(tmp_path):
    folder = tmp_path / "well"
    shutil.copytree(load_system("double_well").path, folder)
    return folder


def test_data_that_do_not_match_their_provenance(copied_well, caplog):
    system = load_system(copied_well)
    data, provenance = system.data_path, system.data_path.with_suffix(".json")
    with caplog.at_level(logging.WARNING):
        text = (copied_well / "system.yaml").read_text()
        (copied_well / "system.yaml").write_text(text.replace("a: 1.0", "a: 0.9"))
        load_system(copied_well).load_data()
    assert "simulated with another potential" in caplog.text
    content = json.loads(provenance.read_text())
    provenance.write_text(json.dumps(content | {"chain_lengths": [5]}))
    with pytest.raises(DataError, match="holds 32000 frames, but its provenance says 5"):
        system.load_data()
    provenance.write_text(json.dumps(content | {"sha256": "0"}))
    with pytest.raises(DataError, match="changed or is incomplete"):
        system.load_data()
    provenance.write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        system.load_data()
    provenance.unlink()
    with pytest.raises(DataError, match=r"provenance that system\.yaml names is missing"):
        system.load_data()
    data.unlink()
    with pytest.raises(DataError, match="no such file"):
        system.load_data()


def test_a_system_without_data_says_how_to_make_some(copied_well):
    text = (copied_well / "system.yaml").read_text()
    (copied_well / "system.yaml").write_text(
        "\n".join(line for line in text.splitlines() if "data:" not in line)
    )
    commands = rf"bgdiff data generate {copied_well}; or .* bgdiff data import {copied_well} TRAJ"
    with pytest.raises(DataError, match=commands):
        load_system(copied_well).load_data()
