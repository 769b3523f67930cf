"""Structures to look at: which conformations are shown is said, and viewers get them as they like them."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation
from synthetic_run import icosahedra

from bgdiff.analysis.cluster_geometry import contact_length
from bgdiff.analysis.conformational_clusters import conformational_clusters, conformational_distances
from bgdiff.analysis.view import (
    MissingViewerError,
    View,
    chosen_frames,
    pick,
    picture,
    show,
    shown_trajectory,
)
from bgdiff.analysis.view_widget import frontend_version
from bgdiff.data.starts import set_torsion
from bgdiff.errors import ConfigError
from bgdiff.generator import Ensemble
from bgdiff.systems import load_system

GENERATOR = np.random.default_rng(5)
LJ13 = load_system("lj13")
PEPTIDE = load_system("alanine_dipeptide_vacuum")
X = icosahedra(GENERATOR, 40, 0.08)


def ensemble(log_weight: np.ndarray) -> Ensemble:
    return Ensemble(LJ13, X, np.zeros(len(X)), log_weight)


def peptides(n: int) -> Ensemble:
    """Alanine dipeptide in two rotamers, a third of it at φ > 0, turned at random, with spread weights."""
    generator = np.random.default_rng(n)
    bonds = [(one.index, other.index) for one, other in PEPTIDE.topology.bonds]
    torsions = {name: spec.dihedral for name, spec in PEPTIDE.spec.observables.items()}
    x = np.empty((n, *PEPTIDE.structure.shape))
    for k in range(n):
        at = {"phi": 60.0, "psi": -60.0} if generator.random() < 1 / 3 else {"phi": -80.0, "psi": 75.0}
        x[k] = PEPTIDE.structure
        for name, degrees in at.items():
            angle = np.radians(degrees + 6 * generator.standard_normal())
            x[k] = set_torsion(x[k], bonds, torsions[name], angle)
    x = x @ Rotation.random(n, rng=generator).as_matrix()
    return Ensemble(PEPTIDE, x, np.zeros(n), generator.standard_normal(n))


def written_on(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text().split()) for text in figure.texts)


def displayed(view: View, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a notebook gets as outputs, one after the other."""
    display = pytest.importorskip("IPython.display")
    outputs: list[dict[str, Any]] = []

    def keep(what: Any, **options: Any) -> None:
        outputs.append(what if isinstance(what, dict) else {"text/html": what.data})

    monkeypatch.setattr(display, "display", keep)
    view._ipython_display_()
    return outputs


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
    caption = "drawn in proportion to their weights, with replacement: 1 different ones of 2,"
    assert caption in written_on(picture(weighted, n=1))
    assert "weights are not used to choose them" in show(weighted, n=6, weighted=False).caption


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
    assert show(X, LJ13, n=5).widget.max_frame == 4
    turned = PEPTIDE.structure @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    both = np.stack([PEPTIDE.structure, turned])
    assert show(both, PEPTIDE).widget.max_frame == 1
    first, second = shown_trajectory(both, PEPTIDE).xyz
    np.testing.assert_allclose(first, second, atol=1e-5)
    with pytest.raises(ConfigError, match="which system"):
        show(X)


def test_widgets_ask_for_the_javascript_that_is_there() -> None:
    """JupyterLab draws nothing if they name another version."""
    nglview = pytest.importorskip("nglview")
    there = frontend_version()
    assert there is not None
    package = Path(sys.prefix) / "share" / "jupyter" / "labextensions" / "nglview-js-widgets" / "package.json"
    if package.is_file():
        assert json.loads(package.read_text())["version"] == there
    for view in (show(X, LJ13, n=2), show(X, LJ13, n=4, by="cluster")):
        assert isinstance(view.widget, nglview.NGLWidget)
        assert view.widget._view_module_version == view.widget._model_module_version == there


def test_without_nglview_there_is_the_picture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "nglview", None)
    plane = 3 * GENERATOR.standard_normal((9, 4, 2))
    view = show(plane, load_system("dw4"), n=2)
    with pytest.raises(MissingViewerError, match="pip install nglview"):
        _ = view.widget
    assert [ax.get_title() for ax in view.figure.axes[:2]] == ["1", "2"]
    assert "2 of 9 conformations, evenly spaced" in written_on(view.figure)
    shown = displayed(view, monkeypatch)
    assert "nglview is not installed" in shown[0]["text/html"]
    assert shown[-1]["image/png"] == view.png


def test_a_widget_never_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nglview")
    view = show(peptides(20), by="basin", n=8)
    widget, note, picture_shown = displayed(view, monkeypatch)
    assert "application/vnd.jupyter.widget-view+json" in widget
    assert "JupyterLab" in widget["text/plain"]
    assert "Nothing there?" in note["text/html"]
    assert picture_shown["text/plain"] == view.caption
    assert view._repr_mimebundle_()["image/png"] == picture_shown["image/png"]
    pixels = image.imread(io.BytesIO(view.png), format="png")
    coloured = np.ptp(pixels[..., :3], axis=2) > 0.2
    assert coloured.mean() > 0.01  # molecules in colours, not only grey words
    assert len(view.groups) == 2


def test_colours_by_weight_hold_all_that_is_shown() -> None:
    source = peptides(200)
    view = show(source, by="weight", n=60)
    members = np.concatenate([group.members for group in view.groups])
    np.testing.assert_array_equal(np.sort(members), np.arange(60))
    relative = source.weights * len(source)
    heavy = next(group for group in view.groups if group.name.startswith("2 to 10"))
    assert ((relative[view.rows[heavy.members]] >= 2) & (relative[view.rows[heavy.members]] < 10)).all()
    assert "weights are not used to choose them" in view.caption
    assert "drawn in proportion" in show(source, by="weight", weighted=True).caption
    with pytest.raises(ConfigError, match="no weights to be coloured by"):
        show(source.x, PEPTIDE, by="weight")
    with pytest.raises(ConfigError, match="by weight, basin, cluster, not by 'charge'"):
        show(source, by="charge")  # type: ignore[arg-type]


def test_colours_by_basin_say_how_much_of_the_ensemble_they_are() -> None:
    source = peptides(400)
    view = show(source, by="basin", n=30)
    inside = PEPTIDE.basin("phi_positive", source.observables)
    (group,) = (group for group in view.groups if group.name == "phi positive")
    assert inside[view.rows[group.members]].all()
    assert inside[view.rows].sum() == len(group.members)
    estimate = source.expectation(inside.astype(float))
    assert f"{100 * estimate.value:.1f} ± {100 * estimate.std_error:.1f} %" in group.note
    only = replace(source, log_weight=np.where(inside, -np.inf, 0.0))
    assert "None of those shown is in phi positive" in show(only, by="basin").caption
    bare = load_system("lj13")
    bare.spec = bare.spec.model_copy(update={"basins": {}})
    with pytest.raises(ConfigError, match="defines no basins"):
        show(X, bare, by="basin")


def test_clusters_find_rotamers_and_shapes() -> None:
    source = peptides(60)
    inside = PEPTIDE.basin("phi_positive", source.observables)
    found = conformational_clusters(source.x, PEPTIDE, 2)
    assert len(found.medoid) == 2
    # of two rotamers with little noise each is one cluster
    assert (found.label == inside).all() or (found.label != inside).all()
    assert np.bincount(found.label)[0] >= np.bincount(found.label)[1]
    assert (found.label[found.medoid] == [0, 1]).all()
    stretched = X[:10] * np.array([1.5, 1.0, 1.0])
    mixed = np.concatenate([X[10:30], stretched])
    order = np.stack([GENERATOR.permutation(13) for _ in mixed])
    mixed = np.take_along_axis(mixed, order[:, :, None], axis=1)
    assert conformational_clusters(mixed, LJ13, 2).label.tolist() == [0] * 20 + [1] * 10
    assert len(conformational_clusters(X[:1], LJ13).medoid) == 1
    apart = conformational_distances(source.x[:6], PEPTIDE)
    heavy = [a.index for a in PEPTIDE.topology.atoms if a.element.symbol != "H"]
    one, other = (source.x[k][heavy] - source.x[k][heavy].mean(0) for k in (0, 5))
    turn, _ = Rotation.align_vectors(one, other)
    rmsd = np.sqrt(((one - turn.apply(other)) ** 2).sum(1).mean())
    assert apart[0, 5] == pytest.approx(rmsd, abs=1e-4)
    assert "average linkage" in show(source, by="cluster", n=12).caption


def test_frames_are_picked_from_a_map() -> None:
    source = peptides(300)
    phi, psi = (np.degrees(source.observables[name]) for name in ("phi", "psi"))
    rows = pick(source, "phi in [0, 130]", n=40)
    assert ((phi[rows] >= 0) & (phi[rows] < 130)).all()
    near = pick(source, {"phi": 60, "psi": -60}, n=5)
    off = np.hypot((phi - 60 + 180) % 360 - 180, (psi + 60 + 180) % 360 - 180)
    np.testing.assert_array_equal(near, np.argsort(off, kind="stable")[:5])
    around = pick(source.x, {"phi": 300.0}, PEPTIDE, n=1)  # the same as -60
    np.testing.assert_array_equal(around, [np.argmin(np.abs((phi + 60 + 180) % 360 - 180))])
    view = show(source, where={"left": {"phi": -80, "psi": 75}, "right": "phi_positive"}, n=4)
    assert [group.name for group in view.groups] == ["left", "right"]
    assert (phi[view.rows[:4]] < 0).all()
    assert (phi[view.rows[4:]] > 0).all()
    # drawn from the region by weight: w is 3 for odd rows, 1 for even ones
    many = pick(replace(source, log_weight=np.log(1.0 + 2.0 * (np.arange(300) % 2))), "phi_positive", n=4000)
    n_odd = np.count_nonzero((phi > 0)[1::2])
    share = 3 * n_odd / (3 * n_odd + np.count_nonzero((phi > 0)[::2]))
    assert abs((many % 2).mean() - share) < 4 * np.sqrt(share * (1 - share) / 4000)
    for place, words in (
        ("phi in [120, 125]", "none of the 300 conformations"),
        ({"chi": 60.0}, "no observable 'chi'"),
        ({}, "at least one observable"),
    ):
        with pytest.raises(ConfigError, match=words):
            pick(source, place)
    with pytest.raises(ConfigError, match="leave 'by' out"):
        show(source, by="basin", where={"here": "phi_positive"})


def test_atoms_to_superpose_can_be_chosen() -> None:
    source = peptides(12)
    centre = shown_trajectory(source.x, PEPTIDE, "resname ALA and name N CA C CB")
    atoms = PEPTIDE.topology.select("resname ALA and name N CA C CB")
    spread = centre.xyz[:, atoms].std(0).max()
    assert spread < 0.02 < centre.xyz[:, [0]].std(0).max()
    for align, words in (("name CA", "selects 1 atoms"), ("nonsense ((", "not a selection")):
        with pytest.raises(ConfigError, match=words):
            shown_trajectory(source.x, PEPTIDE, align)
