"""Pictures of structures: superposed without mirrors, seen from a clear side, drawn where they are."""

import numpy as np
import pytest
from matplotlib.text import Text
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation
from synthetic_run import icosahedra

from bgdiff.analysis.alignment import distances, superposed
from bgdiff.analysis.cluster_geometry import clearest_view, contact_length, rigid_rotation
from bgdiff.analysis.cluster_pictures import Picture, structures
from bgdiff.analysis.cluster_render import Scene, render
from bgdiff.analysis.molecule_pictures import molecule_structures
from bgdiff.errors import ConfigError
from bgdiff.systems import load_system

GENERATOR = np.random.default_rng(3)
EQUAL = np.zeros(13, dtype=int)


def test_copies_turned_and_renamed_are_superposed() -> None:
    x = icosahedra(GENERATOR, 1, 0.12)[0]
    turns = Rotation.random(4, rng=GENERATOR).as_matrix()
    copies = np.stack([x[GENERATOR.permutation(13)] @ turn + [1.0, -2.0, 0.5] for turn in turns])
    np.testing.assert_allclose(superposed(copies, x + 3.0, EQUAL), np.tile(x + 3.0, (4, 1, 1)), atol=1e-9)
    assert superposed(copies[:0], x, EQUAL).shape == (0, 13, 3)


def test_a_mirror_image_stays_one_and_types_are_kept() -> None:
    x = GENERATOR.standard_normal((4, 3))
    mirrored = superposed((-x)[None], x)[0]  # all different: nothing but a rotation
    assert np.linalg.det(mirrored[:3] - mirrored[3]) * np.linalg.det(x[:3] - x[3]) < 0
    np.testing.assert_allclose(pdist(mirrored), pdist(x))
    renamed = superposed(x[None, [1, 0, 2, 3]], x, [0, 0, 1, 1])[0]
    np.testing.assert_allclose(renamed, x, atol=1e-9)
    stuck = superposed(x[None, [2, 1, 0, 3]], x, [0, 0, 1, 2])[0]  # exchanges what may not be exchanged
    assert np.abs(stuck - x).max() > 0.1


def test_superposition_is_as_close_as_the_distance_says() -> None:
    x = icosahedra(GENERATOR, 5, 0.1)
    apart = distances(x, x[:1], EQUAL, starts=16)[:, 0]
    moved = superposed(x, x[0], EQUAL)
    np.testing.assert_allclose(np.sqrt(((moved - x[0]) ** 2).sum((1, 2)))[1:], apart[1:], rtol=0.3)
    plane = GENERATOR.standard_normal((3, 4, 2))
    exact = distances(plane, plane[:1], np.zeros(4, dtype=int))[:, 0]
    found = superposed(plane, plane[0] - plane[0].mean(0), np.zeros(4))
    assert (np.sqrt(((found - plane[0] + plane[0].mean(0)) ** 2).sum((1, 2))) >= exact - 1e-9).all()


def test_views_are_rotations_and_hide_little() -> None:
    x = icosahedra(GENERATOR, 1, 0.0)[0]
    seen = clearest_view(x)
    turn = rigid_rotation(x, seen)
    assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(x @ turn, seen, atol=1e-12)
    assert pdist(seen[:, :2]).min() > 0.2  # of 0.97 to the centre; along an axis it would be 0
    flat = clearest_view(GENERATOR.standard_normal((6, 2)) * [1.0, 5.0])
    assert np.ptp(flat[:, 0]) > np.ptp(flat[:, 1])
    assert contact_length(x[None]) == pytest.approx(0.97)  # of the corners to the centre


def test_a_ball_is_drawn_where_it_is() -> None:
    centres = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 1.0], [-1.0, -1.0, 0.0]])
    colours = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    radii = np.array([0.4, 0.2, 0.3])
    image = render(Scene(centres, radii, colours, np.array([[0, 2]]), 0.05), 2.0, 200)
    assert image.shape == (200, 200, 4)
    assert (image >= 0).all()
    assert (image <= 1).all()

    def at(x: float, y: float) -> np.ndarray:
        return image[round((2 - y) * 50), round((x + 2) * 50)]  # y points up

    assert at(0.5, 0.5)[:3].argmax() == 1  # the nearer ball hides the other
    assert at(0.5, 0.8)[:3].argmax() == 0
    assert at(-1.0, -1.0)[:3].argmax() == 2
    assert at(-0.3, -0.3)[3] == 1  # the stick
    assert at(1.5, -1.5)[3] == 0
    alone = render(Scene(centres[2:], np.array([0.9]), colours[2:], np.zeros((0, 2), int), 0.05), 2.0, 200)
    assert alone[..., 3].mean() * 16 == pytest.approx(np.pi * 0.9**2, rel=0.07)  # and its outline
    nothing = render(Scene(centres[:0], radii[:0], colours[:0], np.zeros((0, 2), int), 0.05), 2.0, 20)
    assert not nothing.any()


def test_structures_say_how_many_neighbours_particles_have() -> None:
    x = icosahedra(GENERATOR, 2, 0.0)
    pictures = [Picture(x[0], "one", "u = 1"), Picture(x[1], "two")]
    figure = structures(pictures, bond=1.2)
    text = "\n".join(artist.get_text() for artist in figure.findobj(Text))
    for words in ("one", "two", "u = 1", "neighbours within 1.2"):
        assert words in text
    assert [ax.get_title() for ax in figure.axes[:2]] == ["one", "two"]
    # every corner has the centre and five others, the centre has all twelve
    assert list(figure.axes[-1].get_xticks()) == list(range(6, 13))
    for ax in figure.axes[:2]:
        assert ax.images[0].get_array().shape[2] == 4


def test_clusters_in_the_plane_are_discs() -> None:
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    figure = structures([Picture(square)] * 2, types=[0, 0, 1, 1])
    assert len(figure.axes[0].patches) == 4
    sticks = figure.axes[0].collections[0].get_segments()
    np.testing.assert_allclose([np.linalg.norm(a - b) for a, b in sticks], np.ones(4))


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ConfigError, match="no structure"):
        structures([])
    with pytest.raises(ConfigError, match="not in 1"):
        structures([Picture(np.zeros((3, 1)))])


def test_molecules_are_superposed_by_their_heavy_atoms() -> None:
    system = load_system("alanine_dipeptide_vacuum")
    topology, x = system.topology, system.structure
    assert topology is not None
    turned = x @ Rotation.random(rng=GENERATOR).as_matrix() + 1.0
    figure = molecule_structures([Picture(x, "a"), Picture(turned, "b")], topology)
    first, second = (ax.images[0].get_array() for ax in figure.axes)
    assert np.abs(first - second).max() < 0.35  # the same picture but for rounding at edges
    assert np.abs(first - second).mean() < 1e-3
    with pytest.raises(ConfigError, match="no structure"):
        molecule_structures([], topology)
