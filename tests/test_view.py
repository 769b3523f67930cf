"""Structures to look at: which conformations are shown is said, and viewers get them as they like them."""

import sys

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from synthetic_run import icosahedra

from bgdiff.analysis.cluster_geometry import contact_length
from bgdiff.analysis.view import MissingViewerError, chosen_frames, picture, show, shown_trajectory
from bgdiff.errors import ConfigError
from bgdiff.generator import Ensemble
from bgdiff.systems import load_system

GENERATOR = np.random.default_rng(5)
LJ13 = load_system("lj13")
X = icosahedra(GENERATOR, 40, 0.08)


def ensemble(log_weight: np.ndarray) -> Ensemble:
    return Ensemble(LJ13, X, np.zeros(len(X)), log_weight)


def test_conformations_are_drawn_in_proportion_if_asked() -> None:
    log_weight = np.full(len(X), -np.inf)
    log_weight[[3, 8]] = np.log([0.25, 0.75])
    weighted = ensemble(log_weight)
    drawn = chosen_frames(weighted, weighted=True, n=2000, seed=1)
    first = (drawn == X[3]).all((1, 2))
    assert (first | (drawn == X[8]).all((1, 2))).all()
    assert abs(first.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2000)
    np.testing.assert_array_equal(chosen_frames(weighted, weighted=True, n=7, seed=1), drawn[:7])
    np.testing.assert_array_equal(chosen_frames(weighted, weighted=False, n=4), X[[0, 13, 26, 39]])
    with pytest.raises(ConfigError, match="say weighted=True"):
        chosen_frames(weighted, weighted=None, n=5)


def test_equal_weights_and_arrays_need_no_choice() -> None:
    np.testing.assert_array_equal(chosen_frames(ensemble(np.zeros(40)), weighted=None, n=40), X)
    np.testing.assert_array_equal(chosen_frames(X[0], weighted=None, n=5), X[:1])
    broken = X.copy()
    broken[1] = np.inf
    assert len(chosen_frames(broken, weighted=None, n=100)) == 39
    for arguments, words in (
        ((X, True, 3), "have no weights"),
        ((X, None, 0), "must be positive"),
        ((X[0, 0], None, 3), r"shape \(n, N, D\), not \(3,\)"),
    ):
        with pytest.raises(ConfigError, match=words):
            chosen_frames(arguments[0], weighted=arguments[1], n=arguments[2])


def test_clusters_are_scaled_and_superposed_for_viewers() -> None:
    trajectory = shown_trajectory(X[:3] + 7.0, LJ13)
    assert trajectory.xyz.shape == (3, 13, 3)
    assert contact_length(trajectory.xyz) == pytest.approx(0.38, rel=1e-5)
    scale = 0.38 / contact_length(X[:3])
    for ours, theirs in zip(trajectory.xyz, X[:3], strict=True):
        np.testing.assert_allclose(np.sort(pdist(ours)), scale * np.sort(pdist(theirs)), atol=1e-5)
    apart = np.linalg.norm(trajectory.xyz[1] - trajectory.xyz[0], axis=1)
    assert apart.max() < 0.38  # superposed: particles are renamed to lie near those of the first
    flat = shown_trajectory(4 * GENERATOR.standard_normal((2, 4, 2)), load_system("dw4"))
    assert not flat.xyz[..., 2].any()
    with pytest.raises(ConfigError, match=r"shape \(n, 13, 3\), not \(2, 4, 3\)"):
        shown_trajectory(np.zeros((2, 4, 3)), LJ13)
    with pytest.raises(ConfigError, match="nothing to look at"):
        shown_trajectory(np.zeros((2, 1, 2)), load_system("double_well"))


def test_a_widget_plays_what_was_chosen() -> None:
    pytest.importorskip("nglview")
    assert show(X, LJ13, n=5).max_frame == 4
    molecule = load_system("alanine_dipeptide_vacuum")
    turned = molecule.structure @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    both = np.stack([molecule.structure, turned])
    assert show(both, molecule).max_frame == 1
    first, second = shown_trajectory(both, molecule).xyz
    np.testing.assert_allclose(first, second, atol=1e-5)
    with pytest.raises(ConfigError, match="which system"):
        show(X)


def test_without_nglview_there_is_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nglview", None)
    with pytest.raises(MissingViewerError, match="pip install nglview"):
        show(X, LJ13)
    plane = 3 * GENERATOR.standard_normal((9, 4, 2))
    figure = picture(plane, load_system("dw4"), n=2)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["1", "2"]
