"""Frames written to files and read back: rounded, whole numbers, any format."""

import numpy as np
import pytest

from bgdiff.data.frames import rounded, write_array, write_trajectory
from bgdiff.data.trajectories import read_array, read_trajectory
from bgdiff.errors import DataError, StorageError
from bgdiff.systems import load_system


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(3).normal(scale=0.3, size=(4000, 22, 3))


def test_rounding_errors_are_uniform_and_at_most_half_a_step(x):
    error = (rounded(x, 13) - x) * 2**13
    assert np.abs(error).max() <= 0.5
    assert abs(error.mean()) < 4 * np.sqrt(1 / 12 / error.size)
    assert abs(error.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / error.size)  # var of e² for uniform e: 1/180
    assert rounded(x, None) is x


def test_whole_numbers_are_read_as_the_rounded_frames_and_take_less_room(x, tmp_path):
    write_array(tmp_path / "whole.npz", x, 13)
    write_array(tmp_path / "float.npz", rounded(x, 13))
    whole, floating = (read_array(tmp_path / f"{name}.npz", (22, 3)) for name in ("whole", "float"))
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, rounded(x, 13))  # exact: 13 bits below nm fit float32
    np.testing.assert_array_equal(floating, whole)
    assert (tmp_path / "whole.npz").stat().st_size < 0.85 * (tmp_path / "float.npz").stat().st_size


def test_frames_far_from_the_origin_need_wider_integers(x, tmp_path):
    far = x[:10] + 100.0  # 100 · 2¹³ is beyond 16 bits
    write_array(tmp_path / "far.npz", far, 13)
    np.testing.assert_array_equal(read_array(tmp_path / "far.npz", (22, 3)), rounded(far, 13))


def test_integers_without_their_unit_are_refused(x, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.round(x * 8192).astype(np.int16))
    with pytest.raises(DataError, match=r"must hold floating-point numbers .* not int16"):
        read_array(tmp_path / "x.npz", (22, 3))
    np.savez(tmp_path / "bits.npz", x=np.round(x * 8192).astype(np.int16), bits=np.array([13, 14]))
    with pytest.raises(DataError, match="is damaged"):
        read_array(tmp_path / "bits.npz", (22, 3))


def test_formats_of_mdtraj_hold_the_same_frames(x, tmp_path):
    topology = load_system("alanine_dipeptide_obc1").topology
    write_trajectory(tmp_path / "x.npz", x[:20], topology, 13)
    write_trajectory(tmp_path / "x.dcd", x[:20], topology, 13)
    np.testing.assert_allclose(
        read_trajectory(tmp_path / "x.dcd", topology), read_array(tmp_path / "x.npz", (22, 3)), atol=1e-6
    )
    with pytest.raises(StorageError, match=r"x\.unknown: mdtraj cannot write it"):
        write_trajectory(tmp_path / "x.unknown", x[:20], topology)
