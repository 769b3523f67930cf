"""Standard errors of free-energy surfaces: the binomial ones, those of repeated draws, and what is shown."""

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from bgdiff.analysis.surface_estimates import PairSample, cells, plane_surface, torsion_surface
from bgdiff.analysis.surfaces import UNSURE, observable_free_energy, ramachandran_free_energy


def meshes(figure: Figure, panel: int) -> list[QuadMesh]:
    return [one for one in figure.axes[panel].collections if isinstance(one, QuadMesh)]


def test_without_weights_or_smoothing_errors_are_binomial() -> None:
    x, y = np.random.default_rng(1).uniform(0, 1, (2, 900)) ** 2
    edges = np.linspace(0, 1, 6)  # few cells are not smoothed
    surface = plane_surface(PairSample(x, y, independent=0.25), (edges, edges))
    share = np.histogram2d(x, y, bins=[edges, edges])[0] / x.size
    np.testing.assert_allclose(surface.std_error, np.sqrt((1 - share) / (0.25 * x.size * share)), rtol=1e-9)


def test_errors_are_those_of_repeated_weighted_draws() -> None:
    """z-scores of smoothed cells over repetitions: mean 0, standard deviation 1."""

    def drawn(seed: int, n: int) -> PairSample:
        x, y = np.random.default_rng(seed).vonmises([[2.9], [-1.0]], 2.0, (2, n))
        return PairSample(x, y, np.exp(0.7 * np.cos(x - 2.0)))

    def log_density(surface_of: PairSample) -> tuple[np.ndarray, np.ndarray]:
        """-ln p up to a constant that does not fluctuate: the sum over all cells is the whole sample."""
        surface = torsion_surface(surface_of, bins=24)
        density = np.exp(-surface.energy)
        return surface.energy + np.log(np.nansum(density)), surface.std_error

    truth, _ = log_density(drawn(0, 2_000_000))
    cells = truth < np.nanmin(truth) + 2.5
    scores = []
    for seed in range(1, 201):
        found, error = log_density(drawn(seed, 4000))
        scores.append(((found - truth) / error)[cells])
    z = np.array(scores)
    assert cells.sum() > 50
    assert np.abs(z.mean(0)).max() < 4.5 / np.sqrt(200) + 0.1  # curvature of the logarithm
    assert np.abs(z.std(0) - 1).max() < 4.5 / np.sqrt(400)


def test_errors_of_torsions_are_periodic() -> None:
    x, y = np.random.default_rng(2).vonmises(3.1, 4.0, (2, 500))
    middle, border = torsion_surface(PairSample(x - np.pi, y)), torsion_surface(PairSample(x, y))
    np.testing.assert_allclose(np.roll(middle.std_error, 36, axis=0), border.std_error, atol=1e-9)


@pytest.mark.parametrize(("panels", "columns"), [(3, 2), (2, 3), (1, 2)])
def test_error_map_stands_beside_and_what_is_not_known_is_grey(panels: int, columns: int) -> None:
    generator = np.random.default_rng(3)
    x, y = generator.vonmises(0.0, 3.0, (2, 2000))
    names = ["data", "proposal", "reweighted"][-panels:]
    samples = {name: PairSample(x, y, generator.exponential(size=x.size)) for name in names}
    figure = ramachandran_free_energy(samples, error_of="reweighted", bins=36)
    assert figure.axes[0].get_gridspec().ncols == columns
    surface = torsion_surface(samples["reweighted"], 36)
    unsure = surface.std_error > UNSURE
    assert unsure.any()
    known = np.isfinite(surface.energy) & ~unsure
    for panel, values in ((panels - 1, surface.energy), (panels, surface.std_error)):
        grey, coloured = meshes(figure, panel)
        np.testing.assert_array_equal(~np.ma.getmaskarray(grey.get_array()).reshape(36, 36), unsure.T)
        shown = np.ma.masked_array(coloured.get_array()).reshape(36, 36)
        np.testing.assert_array_equal(~np.ma.getmaskarray(shown), known.T)
        np.testing.assert_allclose(shown.compressed(), values.T[known.T])
    assert [len(meshes(figure, panel)) for panel in range(panels - 1)] == [1] * (panels - 1)
    text = "\n".join(artist.get_text() for artist in figure.findobj(matplotlib.text.Text))
    assert "error of reweighted" in text
    assert "standard error" in text


def test_plane_has_an_error_map_too() -> None:
    x, y = np.random.default_rng(4).standard_normal((2, 2000))
    edges = np.linspace(-3, 3, 31)
    figure = observable_free_energy(
        {"chains": PairSample(x, y)}, (edges, edges), labels=("x", "y"), error_of="chains"
    )
    assert len(meshes(figure, 1)) == 2
    assert figure.axes[0].get_ylabel() == "y"


@pytest.mark.parametrize(
    ("independent", "found"), [(20_000, 72), (10_000, 72), (9_999, 60), (625, 36), (0, 30)]
)
def test_few_samples_have_wide_cells(independent: float, found: int) -> None:
    assert cells(independent, (30, 36, 45, 60, 72)) == found
