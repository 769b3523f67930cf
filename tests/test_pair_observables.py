"""Observables of all pairs against loops, tabulated values, the addition theorem of spherical harmonics."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from cluster_shapes import icosahedron, mackay_icosahedron, truncated_octahedron
from pydantic import ValidationError
from scipy.special import eval_legendre
from scipy.stats import ortho_group

import bgdiff.data.pair_observables
from bgdiff.data.observables import make_observable
from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.observable_spec import ObservableSpec
from bgdiff.systems import load_system
from bgdiff.variables import variable_named

N = 9
ALL: list[dict[str, Any]] = [
    {"pair_count": {"intervals": [[0.5, 1.2], [2.0, 9.0]]}},
    {"pair_distance": {"which": "shortest"}},
    {"pair_distance": {"which": "longest"}},
    {"pair_distance": {"which": "mean"}},
    {"coordination": {"cutoff": 1.3, "intervals": [[2, 4], [6, 9]]}},
    {"steinhardt": {"l": 4, "cutoff": 1.3}},
    {"steinhardt": {"l": 6, "cutoff": 1.3}},
]


def measure(fields: dict[str, Any], x: np.ndarray) -> np.ndarray:
    return make_observable("it", ObservableSpec.model_validate(fields), x.shape[1:])(x)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(40, N, 3))


def by_loop(fields: dict[str, Any], points: np.ndarray) -> float:
    n = len(points)
    distances = {(i, j): math.dist(points[i], points[j]) for i in range(n) for j in range(i)}
    ((kind, options),) = fields.items()
    if kind == "pair_count":
        return sum(any(lo <= d < hi for lo, hi in options["intervals"]) for d in distances.values())
    if kind == "pair_distance":
        values = list(distances.values())
        return {"shortest": min, "longest": max, "mean": np.mean}[options["which"]](values)
    bonded = [pair for pair, d in distances.items() if d < options["cutoff"]]
    if kind == "coordination":
        numbers = [sum(i in pair for pair in bonded) for i in range(n)]
        return sum(any(lo <= number < hi for lo, hi in options["intervals"]) for number in numbers)
    if not bonded:
        return 0.0
    # Σ_m |<Y_lm>|² 4π/(2l+1) = <P_l(cosine between bonds)>, by the addition theorem
    bonds = np.array([(points[i] - points[j]) / distances[i, j] for i, j in bonded])
    return math.sqrt(eval_legendre(options["l"], np.clip(bonds @ bonds.T, -1, 1)).mean())


@pytest.mark.parametrize("fields", ALL, ids=str)
def test_every_one_is_what_a_loop_finds(
    fields: dict[str, Any], x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [by_loop(fields, points) for points in x]
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(measure(fields, x), expected, atol=1e-12)
    monkeypatch.setattr(bgdiff.data.pair_observables, "_PAIRS_AT_ONCE", 3 * 36)  # batches of three
    np.testing.assert_allclose(measure(fields, x), expected, atol=1e-12)
    assert measure(fields, x[:0]).shape == (0,)


@pytest.mark.parametrize("fields", ALL, ids=str)
def test_nothing_depends_on_axes_or_on_the_order_of_particles(fields: dict[str, Any], x: np.ndarray) -> None:
    rotation = ortho_group.rvs(3, random_state=2)
    order = np.random.default_rng(3).permutation(N)
    np.testing.assert_allclose(
        measure(fields, (x @ rotation + 0.4)[:, order]), measure(fields, x), atol=1e-12
    )


def test_chosen_particles(x: np.ndarray) -> None:
    some = [0, 3, 4, 8]
    for fields in ALL:
        ((kind, options),) = fields.items()
        chosen = {kind: options | {"atoms": some}}
        np.testing.assert_allclose(measure(chosen, x), measure(fields, x[:, some]), atol=1e-12)


def shell(lattice: str) -> np.ndarray:
    """A particle and its neighbours in the crystal."""
    steps = np.array(np.meshgrid(*[[-1, 0, 1]] * 3)).reshape(3, -1).T
    size = np.abs(steps).sum(1)
    return steps[(size == {"fcc": 2, "simple cubic": 1, "bcc": 3}[lattice]) | (size == 0)].astype(float)


@pytest.mark.parametrize(
    ("points", "cutoff", "l", "expected"),
    [
        (icosahedron().numpy(), 1.02, 4, 0.0),
        (icosahedron().numpy(), 1.02, 6, 0.663),
        (icosahedron().numpy(), 1.02, 8, 0.0),
        (icosahedron().numpy(), 1.02, 10, 0.363),
        (shell("fcc"), 1.5, 4, 0.191),
        (shell("fcc"), 1.5, 6, 0.575),
        (shell("simple cubic"), 1.1, 4, 0.764),
        (shell("simple cubic"), 1.1, 6, 0.354),
        (shell("bcc"), 1.8, 4, 0.509),
        (shell("bcc"), 1.8, 6, 0.629),
    ],
)
def test_tabulated_bond_order(points: np.ndarray, cutoff: float, l: int, expected: float) -> None:
    """Steinhardt, Nelson & Ronchetti 1983; Mickel et al., J. Chem. Phys. 138, 044501 (2013).

    Bonds between neighbours of the central particle add nothing in the cubic shells: they are too long, or
    parallel to its own.
    """
    assert measure({"steinhardt": {"l": l, "cutoff": cutoff}}, points[None])[0] == pytest.approx(
        expected, abs=6e-4
    )


def test_bond_order_tells_the_famous_clusters_apart() -> None:
    order = {
        make.__name__: float(measure({"steinhardt": {"l": 4, "cutoff": 1.2}}, make().numpy()[None])[0])
        for make in (icosahedron, mackay_icosahedron, truncated_octahedron)
    }
    assert order["truncated_octahedron"] == pytest.approx(0.1909, abs=1e-4)
    assert order["icosahedron"] < 1e-6
    assert order["mackay_icosahedron"] < 1e-6


def test_no_bonds_and_no_distance() -> None:
    apart = np.arange(9.0).reshape(1, 3, 3)
    assert measure({"steinhardt": {"l": 6, "cutoff": 1.0}}, apart) == 0
    assert measure({"coordination": {"cutoff": 1.0, "intervals": [[0, 1]]}}, apart) == 3
    together = np.zeros((1, 3, 3))
    assert measure({"steinhardt": {"l": 6, "cutoff": 1.0}}, together) == 0
    assert measure({"pair_distance": {"which": "longest"}}, together) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pair_count": {}}, "intervals"),
        ({"pair_count": {"intervals": [[2, 1]]}}, "lower end first"),
        ({"pair_distance": {"which": "typical"}}, "shortest"),
        ({"coordination": {"cutoff": 0, "intervals": [[0, 1]]}}, "greater than 0"),
        ({"steinhardt": {"l": 5, "cutoff": 1.4}}, "l: must be 2, 4, 6"),
        ({"steinhardt": {"l": 6}}, "cutoff"),
        ({"pair_distance": {"which": "mean", "atoms": [1]}}, "at least 2"),
        ({"pair_distance": {"which": "mean", "atoms": [1, 1]}}, "the same particle appears twice"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ObservableSpec.model_validate(fields)


def test_what_makes_no_sense_for_a_system_is_refused() -> None:
    order = ObservableSpec.model_validate({"steinhardt": {"l": 6, "cutoff": 1.4}})
    mean = ObservableSpec.model_validate({"pair_distance": {"which": "mean", "atoms": [0, 5]}})
    with pytest.raises(SystemDefinitionError, match="it: the order of bonds needs 3 dimensions"):
        make_observable("it", order, (4, 2))
    with pytest.raises(SystemDefinitionError, match="it: a system of one particle has no pairs"):
        make_observable("it", ObservableSpec.model_validate({"pair_distance": {"which": "mean"}}), (1, 2))
    with pytest.raises(SystemDefinitionError, match="index is out of range"):
        make_observable("it", mean, (4, 3))
    with pytest.raises(ValueError, match=r"leaves the range of this steinhardt, \[0, 1\]"):
        order.check_intervals([(0.5, 1.5)])


def test_written_ad_hoc() -> None:
    system = load_system("lj13")
    texts = [
        "steinhardt(l=6, cutoff=1.4)",
        "pair_count(intervals=[[0, 1.4]])",
        "pair_distance(which='longest')",
        "coordination(cutoff=1.4, intervals=[[12, 13]])",
    ]
    made = dict(variable_named(text, {}) for text in texts)
    values = system.measure(made, torch.stack([icosahedron(), 2 * icosahedron()]))
    assert list(values) == ["".join(text.split()) for text in texts]
    longest = 2 * float(icosahedron()[1].norm())
    np.testing.assert_allclose(list(values.values())[1:], [[42, 0], [longest, 2 * longest], [1, 0]])
    with pytest.raises(ConfigError, match="l: must be 2, 4"):
        variable_named("steinhardt(l=3, cutoff=1.4)", {})
    with pytest.raises(ConfigError, match="steinhardt takes keywords"):
        variable_named("steinhardt(6, 1.4)", {})


def test_which_are_lengths() -> None:
    lengths = [ObservableSpec.model_validate(fields).is_length for fields in ALL]
    assert lengths == ["pair_distance" in fields for fields in ALL]
    assert ObservableSpec.model_validate({"component": [0, 1]}).is_length
    assert not ObservableSpec.model_validate({"angle": [0, 1, 2]}).is_length
