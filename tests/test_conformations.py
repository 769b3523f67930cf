"""Conformations written piece by piece make the files that writing them at once would make, or none."""

from pathlib import Path

import mdtraj
import numpy as np
import pytest

from bgdiff.conformations import conformation_writer, save_structure, topology_of
from bgdiff.errors import ConfigError, DataError
from bgdiff.generator import Ensemble
from bgdiff.systems import load_system


def pieces(x: np.ndarray) -> list[np.ndarray]:
    return [x[:4], x[4:5], x[5:]]


def test_a_trajectory_in_pieces(tmp_path: Path) -> None:
    system = load_system("alanine_dipeptide_vacuum")
    topology = system.topology
    assert topology is not None
    x = system.structure + 0.01 * np.random.default_rng(0).standard_normal((9, 22, 3))
    with conformation_writer(tmp_path, topology, 9, (22, 3)) as append:
        for piece in pieces(x):
            append(piece)
    save_structure(tmp_path / "topology.pdb", x[3], topology)
    ours = mdtraj.load(str(tmp_path / "samples.dcd"), top=str(tmp_path / "topology.pdb"))
    np.testing.assert_allclose(ours.xyz, x, atol=1e-6)
    mdtraj.Trajectory(x.astype(np.float32), topology).save_dcd(str(tmp_path / "whole.dcd"))
    whole = mdtraj.load(str(tmp_path / "whole.dcd"), top=topology)
    np.testing.assert_allclose(ours.xyz, whole.xyz, atol=1e-7)
    np.testing.assert_allclose(mdtraj.load(str(tmp_path / "topology.pdb")).xyz[0], x[3], atol=1e-3)


def test_an_archive_in_pieces(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((7, 3, 2))
    with conformation_writer(tmp_path, None, 7, (3, 2)) as append:
        for piece in pieces(x):
            append(piece)
    with np.load(tmp_path / "samples.npz") as content:
        assert content.files == ["x"]
        np.testing.assert_array_equal(content["x"], x)


@pytest.mark.parametrize("name", ["dw4", "lj13"])
def test_clusters_are_written_for_viewers_and_exactly(name: str, tmp_path: Path) -> None:
    system = load_system(name)
    topology, (particles, dimensions) = topology_of(system), system.target.event_shape
    assert topology is not None
    assert [atom.element.symbol for atom in topology.atoms] == ["Ar"] * particles
    assert topology.n_residues == particles
    x = np.random.default_rng(2).standard_normal((7, particles, dimensions))
    with conformation_writer(tmp_path, topology, 7, x.shape[1:], array=True) as append:
        for piece in pieces(x):
            append(piece)
    save_structure(tmp_path / "topology.pdb", x[3], topology)
    seen = mdtraj.load(str(tmp_path / "samples.dcd"), top=str(tmp_path / "topology.pdb"))
    np.testing.assert_allclose(seen.xyz[..., :dimensions], x, atol=1e-6)
    assert not seen.xyz[..., dimensions:].any()
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npz")["x"], x)
    held = Ensemble(system, x, np.zeros(7), np.zeros(7)).trajectory()
    np.testing.assert_allclose(held.xyz, seen.xyz, atol=1e-6)


def test_other_systems_have_no_trajectory() -> None:
    system = load_system("double_well")
    assert topology_of(system) is None
    with pytest.raises(ConfigError, match="neither a molecule nor a cluster"):
        Ensemble(system, np.zeros((2, 1, 2)), np.zeros(2), np.zeros(2)).trajectory()


def test_unfinished_files_are_no_files(tmp_path: Path) -> None:
    """An interruption, or another number of conformations than was announced, leaves the old file alone."""
    (tmp_path / "samples.npz").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), conformation_writer(tmp_path, None, 7, (3, 2)) as append:
        append(np.zeros((4, 3, 2)))
        raise KeyboardInterrupt
    with (
        pytest.raises(DataError, match=r"samples\.npz: 4 conformations were written instead of 7"),
        conformation_writer(tmp_path, None, 7, (3, 2)) as append,
    ):
        append(np.zeros((4, 3, 2)))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("samples.npz", b"old")]
