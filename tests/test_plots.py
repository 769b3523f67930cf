"""Figures: what is drawn is what the arrays say, on shared scales, and matplotlib's state is left alone."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from scipy.stats import norm
from synthetic_run import history

from bgdiff.analysis.exact import exact_profiles
from bgdiff.analysis.plots import (
    EnergySample,
    ExactProfile,
    PairSample,
    ProfileSample,
    Region,
    energy_histograms,
    profile,
    ramachandran_free_energy,
    save_figure,
    training_history,
    weight_distribution,
)
from bgdiff.analysis.profiles import count_profile, free_energy_profile
from bgdiff.analysis.surface_estimates import plane_surface, torsion_surface
from bgdiff.analysis.surfaces import observable_free_energy
from bgdiff.errors import StorageError
from bgdiff.free_energy import ZeroWeightsError
from bgdiff.systems import load_system

GENERATOR = np.random.default_rng(0)
N = 4000
PHI, PSI = GENERATOR.vonmises(-1.0, 5.0, N), GENERATOR.vonmises(3.1, 5.0, N)
WEIGHT = GENERATOR.exponential(size=N)


def texts(figure: Figure) -> str:
    """All text of a figure, drawn or not."""
    return "\n".join(artist.get_text() for artist in figure.findobj(matplotlib.text.Text))


def ramachandran(**options: object) -> Figure:
    samples = {
        "data": PairSample(PHI, PSI),
        "proposal": PairSample(PHI + 0.1, PSI),
        "reweighted": PairSample(PHI, PSI, WEIGHT),
    }
    return ramachandran_free_energy(samples, **options)


def test_torsion_free_energy_of_a_von_mises_density() -> None:
    phi, psi = (np.random.default_rng(i).vonmises(2.8, 2.0, 500_000) for i in (1, 2))  # crosses ±180°
    edges, _, energy, _ = torsion_surface(PairSample(phi, psi))
    centres = np.radians((edges[:-1] + edges[1:]) / 2)
    exact = -2.0 * (np.cos(centres - 2.8)[:, None] + np.cos(centres - 2.8)[None, :])
    low = exact < exact.min() + 2  # 140 samples a bin and more
    assert np.abs(energy - (exact - exact.min()))[low].max() < 0.15
    assert np.nanmin(energy) == 0.0


def test_torsion_free_energy_uses_weights_and_leaves_empty_bins_blank() -> None:
    two = PairSample(np.array([-1.0, 1.0]), np.array([0.0, 0.0]), np.array([1.0, np.exp(-3)]))
    energy = torsion_surface(two, bins=72).energy
    filled = np.isfinite(energy)
    assert filled.sum() == 2
    assert sorted(energy[filled]) == pytest.approx([0.0, 3.0])
    # a bin surrounded by its neighbours' smoothed samples is filled, a stray sample fills no neighbour
    none = torsion_surface(PairSample(np.array([np.nan]), np.array([0.0])))
    assert np.isnan(none.energy).all()
    assert np.isnan(none.std_error).all()


def test_torsion_free_energy_is_periodic() -> None:
    shifted = PairSample(PHI + 2 * np.pi, PSI - 2 * np.pi, WEIGHT)
    for one, other in zip(
        torsion_surface(shifted), torsion_surface(PairSample(PHI, PSI, WEIGHT)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_ramachandran_panels_share_one_colour_scale() -> None:
    regions = [Region("left_one", "x", [(-180, 0), (130, 180)], {"data": 0.991, "reweighted": 0.5})]
    figure = ramachandran(regions=regions)
    meshes = figure.findobj(QuadMesh)
    panels = [mesh for mesh in meshes if mesh.axes in figure.axes[:3]]
    assert len(panels) == 3
    assert len({mesh.get_clim() for mesh in panels}) == 1
    assert panels[0].get_clim()[0] == 0
    assert all(np.ma.getmaskarray(mesh.get_array()).any() for mesh in panels)
    for ax in figure.axes[:3]:
        assert ax.get_xlim() == ax.get_ylim() == (-180, 180)
        assert set(ax.get_xticks()) >= {-180, -90, 0, 90, 180}
        verticals = {line.get_xdata()[0] for line in ax.get_lines()}
        assert verticals == {0.0, 130.0}  # ±180 is the border
    text = texts(figure)
    assert "left one  99.1 %" in text
    assert "left one  50.0 %" in text
    assert "φ / degree" in text
    assert "free energy" in text


def test_ramachandran_limit_can_be_set_and_panels_can_be_few() -> None:
    assert ramachandran(limit=6.0).axes[0].collections[0].get_clim() == (0, 6)
    single = ramachandran_free_energy({"data": PairSample(PHI, PSI)}, labels=("a", "b"))
    assert "a / degree" in texts(single)


def test_profile_errors_are_calibrated() -> None:
    """z-scores of every bin over repeated weighted samples of a Gaussian: mean 0, sd 1."""
    edges = np.linspace(-2.0, 2.0, 9)
    truth = -np.log(np.diff(norm.cdf(edges)) / np.diff(edges))
    scores = []
    for seed in range(300):
        x = 1.4 * np.random.default_rng(seed).standard_normal(3000)
        result = free_energy_profile(ProfileSample(x, norm.pdf(x) / norm.pdf(x, scale=1.4)), edges)
        scores.append((result.free_energy - truth) / result.std_error)
    z = np.array(scores)
    assert np.abs(z.mean(axis=0)).max() < 4.5 / np.sqrt(300)
    assert np.abs(z.std(axis=0) - 1).max() < 4.5 / np.sqrt(600)


def test_profile_against_the_exact_curve() -> None:
    grid = np.linspace(-8, 8, 4001)
    samples = {
        "data": ProfileSample(GENERATOR.standard_normal(5000) + 0.5),
        "reweighted": ProfileSample(GENERATOR.standard_normal(20_000), np.ones(20_000)),
    }
    figure = profile(samples, label="r", unit="nm", exact=ExactProfile(grid, grid**2 / 2), boundaries=[0.3])
    top, bottom = figure.axes
    assert bottom.get_xlabel() == "r / nm"
    deviation = bottom.get_lines()[1].get_ydata()
    assert np.median(np.abs(deviation)) < 0.1
    curve = top.get_lines()[0]  # the exact curve, shifted to its own lowest bin
    assert np.min(curve.get_ydata()) == pytest.approx(0.0, abs=0.02)
    assert "exact" in texts(figure)


def test_exact_profiles_give_the_exact_populations() -> None:
    exact = exact_profiles(load_system("double_well"))
    assert set(exact) == {"x", "y"}
    x, energy = exact["x"]
    boltzmann = np.exp(-energy)
    total, right = (np.trapezoid(boltzmann[part], x[part]) for part in (x < np.inf, x >= 0))
    assert np.log(total) + 0.5 * np.log(2 * np.pi) == pytest.approx(5.951223, abs=1e-4)
    assert -np.log(right / (total - right)) == pytest.approx(2.629382, abs=1e-2)
    assert exact_profiles(load_system("alanine_dipeptide_vacuum")) == {}


def test_bars_of_a_number_that_counts() -> None:
    number = np.repeat([1.0, 2.0, 4.0], [100, 300, 600])
    samples = {
        "data": ProfileSample(number),
        "reweighted": ProfileSample(number, np.where(number == 4, 0, 1.0)),
    }
    figure = count_profile(samples, label="pairs", boundaries=[2.5])
    (ax,) = figure.axes
    first, second = ([bar.get_height() - 0.3 for bar in bars] for bars in ax.containers[:3:2])
    lowest = np.log(4 / 3)  # of the last sample, 300 of 400
    np.testing.assert_allclose(first, -np.log([0.1, 0.3, 0.6]) - lowest, atol=1e-9)
    np.testing.assert_allclose(second, [np.log(3), 0.0], atol=1e-9)
    assert ax.get_xlim() == (0.5, 4.5)
    assert ax.get_lines()[-1].get_xdata()[0] == 2.5
    assert len(count_profile({"data": ProfileSample(np.arange(60.0))}, label="n").axes[0].containers) == 0


def test_plane_free_energy_of_a_gaussian() -> None:
    generator = np.random.default_rng(3)
    x = generator.standard_normal(400_000)
    y = 0.6 * x + 0.8 * generator.standard_normal(x.size)
    edges = np.linspace(-3, 3, 61), np.linspace(-3, 3, 61)
    energy = plane_surface(PairSample(x, y, np.exp(0.5 * y)), edges).energy  # tilted: the mean moves by 0.5 C
    centres = (edges[0][1:] + edges[0][:-1]) / 2
    u, v = np.meshgrid(centres - 0.3, centres - 0.5, indexing="ij")
    exact = (u**2 - 1.2 * u * v + v**2) / (2 * 0.64)
    low = exact < 2
    assert np.abs(energy - exact)[low].max() < 0.2
    assert np.isnan(energy[0, -1])  # nothing was seen there
    assert np.isnan(plane_surface(PairSample(np.full(3, np.nan), np.zeros(3)), edges).energy).all()


def test_surfaces_of_observables_share_one_colour_scale() -> None:
    samples = {
        "data": PairSample(PHI, np.round(PSI)),
        "reweighted": PairSample(PHI, np.round(PSI), WEIGHT),
    }
    regions = [Region("long", "x", [(-np.inf, 0.5)], {"data": 0.25})]
    edges = np.linspace(-3, 3, 41), np.arange(-4, 5) - 0.5
    figure = observable_free_energy(samples, edges, regions, labels=("size / nm", "pairs"))
    panels = figure.axes[:2]
    meshes = [mesh for mesh in figure.findobj(QuadMesh) if mesh.axes in panels]
    assert len({mesh.get_clim() for mesh in meshes}) == 1
    assert [line.get_xdata()[0] for line in panels[0].get_lines()] == [0.5]
    assert panels[0].get_xlim() == (-3, 3)
    for words in ("size / nm", "pairs", "long  25.0 %", "reweighted"):
        assert words in texts(figure)


def test_energy_overlap_beside_what_noise_leaves() -> None:
    generator = np.random.default_rng(4)
    shown = energy_histograms(
        {
            "data": EnergySample(generator.standard_normal(5000)),
            "proposal": EnergySample(1.5 + generator.standard_normal(5000)),
            "reweighted": EnergySample(generator.standard_normal(5000), generator.exponential(size=5000)),
        },
        overlap=True,
    )
    found = re.findall(r"(\w+) ([\d.]+) % \(([\d.]+) % if equal\)", texts(shown))
    (_, far, _), (name, near, most) = found
    assert name == "reweighted"
    assert abs(float(far) - 200 * norm.cdf(-0.75)) < 2  # two unit Gaussians 1.5 apart
    assert abs(float(near) - float(most)) < 1.5
    assert 90 < float(most) < 99
    assert "overlap" not in texts(energy_histograms({"data": EnergySample(generator.standard_normal(50))}))
    # one sample that carries all the weight is worth nothing, and says so
    alone = EnergySample(generator.standard_normal(100), np.eye(100)[0])
    shown = energy_histograms(
        {"data": EnergySample(generator.standard_normal(100)), "reweighted": alone}, overlap=True
    )
    assert 0 <= float(re.findall(r"\(([\d.]+) % if equal\)", texts(shown))[0]) < 50


def test_profile_of_a_torsion_is_in_degrees() -> None:
    figure = profile({"reweighted": ProfileSample(PHI, WEIGHT)}, label="φ", periodic=True)
    assert figure.axes[0].get_xlim() == (-180, 180)
    assert "φ / degree" in texts(figure)


def test_energy_histograms_span_what_matters_and_count_the_rest() -> None:
    energy = GENERATOR.normal(-30, 4, N)
    wild = energy.copy()
    wild[:80], wild[80:100] = 1e12, np.inf
    weight = np.where(np.arange(N) < 100, 0.0, 1.0)
    figure = energy_histograms(
        {
            "data": EnergySample(energy),
            "proposal": EnergySample(wild),
            "reweighted": EnergySample(wild, weight),
        }
    )
    linear, logarithmic = figure.axes
    assert linear.get_xlim()[1] < 0
    assert logarithmic.get_yscale() == "log"
    # 80 beyond the axis, of those that are finite, and whatever strays of a Gaussian lie outside 99.9 %
    assert "proposal 2.0 %, 0.50 % not finite" in texts(figure) or "proposal 2.1 %" in texts(figure)
    assert "reweighted" in texts(figure)


def test_weight_distribution_is_annotated() -> None:
    log_weight = GENERATOR.normal(500.0, 0.8, N)
    log_weight[:7] = -np.inf
    figure = weight_distribution(log_weight, GENERATOR.normal(500.6, 0.8, 300))
    text = texts(figure)
    assert "N = 4\u202f000" in text
    assert "7 of weight zero" in text
    assert "largest share" in text
    assert "$\\hat k$ = " in text
    assert "held-out data" in text
    low, high = figure.axes[0].get_xlim()
    assert low < 0 < high < 10  # centred at the mean weight


@pytest.mark.parametrize(
    "log_weight",
    [np.zeros(200), np.zeros(1), 200 * np.random.default_rng(0).standard_normal(500), [0.0, -np.inf]],
    ids=["equal", "one sample", "one sample has it all", "one of two"],
)
def test_weight_distribution_of_extreme_weights(log_weight: np.ndarray, tmp_path: Path) -> None:
    save_figure(weight_distribution(log_weight), tmp_path / "weights.png")
    assert (tmp_path / "weights.png").stat().st_size > 1000


def test_weight_distribution_without_weight() -> None:
    with pytest.raises(ZeroWeightsError):
        weight_distribution(np.full(3, -np.inf))


def test_training_history_draws_what_was_recorded() -> None:
    figure = training_history(history())
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "score-matching loss",
        "DiffCLF loss",
        r"sd of energy error / $k_\mathrm{B}T$",
    ]
    assert figure.axes[2].get_yscale() == "log"
    training, held_out = figure.axes[0].get_lines()
    assert training.get_ydata()[-1] == pytest.approx(0.4, abs=0.1)
    assert list(held_out.get_xdata()) == [250 * row for row in range(1, 25)]


def test_training_history_marks_further_rounds() -> None:
    records = [record | {"round": int(record["step"] > 600)} for record in history()]
    last = max(record["step"] for record in records if record["round"] == 0)
    figure = training_history(records)
    for ax in figure.axes:
        assert [line.get_xdata()[0] for line in ax.get_lines() if len(set(line.get_xdata())) == 1] == [last]
    assert texts(figure).count("round 1") == 1
    assert "round" not in texts(training_history(history()))


def test_training_history_leaves_out_what_is_missing() -> None:
    figure = training_history([{"step": 1, "score": 1.0, "diffclf": None}, {"step": 2, "score": np.nan}])
    assert len(figure.axes) == 1
    assert "no training history" in texts(training_history([]))


def test_training_history_has_a_panel_for_every_objective() -> None:
    terms = {"mixed_score": 1.0, "multi_level": 0.7, "held_out_multi_level": 0.8, "new_idea": 2.0}
    records = [{"step": step, "loss": 3.0, "lr": 1e-3, "grad_norm": 1.0, **terms} for step in (1, 2, 3)]
    figure = training_history([*records, {"step": 4, "held_out_energy_sd": 0.3}])
    assert [title for ax in figure.axes if (title := ax.get_title(loc="left"))] == [
        "score-matching loss",
        "multi-level DiffCLF loss",
        "new idea loss",
        r"sd of energy error / $k_\mathrm{B}T$",
    ]


def test_training_history_of_earlier_versions_is_understood() -> None:
    figure = training_history([{"step": 1, "score": 1.0, "held_out_score": 1.1, "diffclf": 0.7}])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["score-matching loss", "DiffCLF loss"]


def test_drawing_leaves_matplotlib_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    inputs = [PHI.copy(), WEIGHT.copy()]
    save_figure(ramachandran(), tmp_path / "figure.png")
    profile({"reweighted": ProfileSample(PHI, WEIGHT)}, label="φ", periodic=True)
    assert dict(matplotlib.rcParams) == before
    np.testing.assert_array_equal(PHI, inputs[0])
    np.testing.assert_array_equal(WEIGHT, inputs[1])


def test_pyplot_is_never_imported() -> None:
    code = (
        "import sys, bgdiff.analysis.report; "
        "sys.exit(any(m in sys.modules for m in ('matplotlib.pyplot', 'torch', 'openmm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_same_figure_same_bytes(tmp_path: Path) -> None:
    figure = training_history(history())
    for suffix in ("png", "pdf"):
        first, second = (tmp_path / f"{name}.{suffix}" for name in "ab")
        save_figure(figure, first)
        save_figure(training_history(history()), second)
        assert first.read_bytes() == second.read_bytes()


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        save_figure(training_history([]), tmp_path / "nowhere" / "figure.png")
