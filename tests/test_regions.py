"""Regions written in a line: what they select, what is refused and why."""

from typing import Any

import numpy as np
import pytest

from bgdiff.errors import BgdiffError
from bgdiff.free_energy.estimate import EmptyBasinError
from bgdiff.regions import (
    Region,
    RegionError,
    check_disjoint,
    check_populated,
    parse_region,
    region_values,
)
from bgdiff.systems import System, load_system


@pytest.fixture(scope="module")
def molecule() -> System:
    return load_system("alanine_dipeptide_vacuum")


@pytest.fixture(scope="module")
def angles() -> dict[str, np.ndarray]:
    """Points all over the torus, in radian."""
    phi, psi = np.random.default_rng(0).uniform(-np.pi, np.pi, size=(2, 4000))
    return {"phi": phi, "psi": psi}


def select(text: str, system: System, values: dict[str, np.ndarray]) -> np.ndarray:
    return parse_region(text, system).mask(values)


def test_intervals_of_torsions(molecule: System, angles: dict[str, np.ndarray]) -> None:
    phi, psi = np.degrees(angles["phi"]), np.degrees(angles["psi"])
    for text, expected in (
        ("phi in [0, 130]", (phi >= 0) & (phi < 130)),
        ("phi in [-180, 0] or [130, 180]", (phi < 0) | (phi >= 130)),
        ("phi in [150, 210]", (phi >= 150) | (phi < -150)),
        ("phi in [-1e2, -30.0) and psi in[-80,0]", (phi >= -100) & (phi < -30) & (psi >= -80) & (psi < 0)),
        ("alpha: psi in [0, 10] or [20, 30] or [-10, -5]",
         ((psi >= 0) & (psi < 10)) | ((psi >= 20) & (psi < 30)) | ((psi >= -10) & (psi < -5))),
    ):  # fmt: skip
        assert 0 < expected.sum() < expected.size
        np.testing.assert_array_equal(select(text, molecule, angles), expected, err_msg=text)


def test_intervals_are_half_open(molecule: System) -> None:
    edge = {"phi": np.radians([-90.0, 0.0, 90.0])}
    assert select("phi in [-90, 90]", molecule, edge).tolist() == [True, True, False]
    well = load_system("double_well")
    edge = {"x": np.array([[-1.0, 0.0], [1.0, 7.0]])}
    assert select("x in [0, inf]", well, edge).tolist() == [[False, True], [True, True]]
    assert select("x in [-.inf, 0]", well, edge).tolist() == [[True, False], [False, False]]


def test_names(molecule: System, angles: dict[str, np.ndarray]) -> None:
    basin = parse_region(" phi_positive ", molecule)
    np.testing.assert_array_equal(basin.mask(angles), molecule.basin("phi_positive", angles))
    assert basin.name == "phi_positive"
    assert str(basin) == "phi in [0, 130]"
    assert parse_region("alpha-R: phi in [-100, -30]", molecule).name == "alpha-R"
    assert parse_region(" phi in [0, 1] ", molecule).name == "phi in [0, 1]"


def test_variables_given_ad_hoc(molecule: System) -> None:
    noise = np.random.default_rng(3).normal(scale=0.05, size=(300, 22, 3))
    x = molecule.structure + noise
    # the system's own torsion under another writing is known by its own name
    assert set(parse_region("dihedral(4, 6, 8, 14) in [0, 90]", molecule).variables) == {"phi"}
    distance = np.linalg.norm(x[:, 1] - x[:, 18], axis=1)
    middle = float(np.median(distance))
    arms = x[:, [4, 8]] - x[:, [6]]
    cosine = np.einsum("bi,bi->b", arms[:, 0], arms[:, 1]) / np.linalg.norm(arms, axis=2).prod(1)
    bend = np.degrees(np.arccos(cosine))
    # mdtraj's radius of gyration: every atom counts the same
    rg = np.sqrt(((x - x.mean(1, keepdims=True)) ** 2).sum(2).mean(1))
    cases: list[tuple[str, Any]] = [
        (f"distance(1,18) in [0, {middle}]", distance < middle),
        ("angle(4, 6, 8) in [110, 180]", bend >= 110),
        (f"mdtraj.compute_rg in [{np.median(rg)}, inf]", rg >= np.median(rg)),
        (f"radius_of_gyration() in [0, {np.median(rg)}]", rg < np.median(rg)),
        (f"mdtraj.compute_distances(atom_pairs=[[0, 2], [1, 18]])[1] in [0, {middle}]", distance < middle),
        ("component(3, 2) in [0, 1] and angle(4,6,8) in [0, 110]",
         (x[:, 3, 2] >= 0) & (x[:, 3, 2] < 1) & (bend < 110)),
    ]  # fmt: skip
    for text, expected in cases:
        region = parse_region(text, molecule)
        mask = region.mask(region_values([region], molecule, x))
        assert 0 < mask.sum() < len(mask), text
        assert (mask != expected).sum() <= 1, text  # mdtraj's single precision may move one at the median
    assert region_values([parse_region("rmsd(atoms='heavy') in [0, 0.2]", molecule)], molecule, x[:2])


def test_values_that_are_known_are_not_computed_again(molecule: System) -> None:
    regions = [parse_region(text, molecule) for text in ("phi in [0, 9]", "distance(1, 18) in [0, 1]")]
    x, known = molecule.structure[None], {"phi": np.array([0.1])}
    values = region_values(regions, molecule, x, known)
    assert set(values) == {"phi", "distance(1,18)"}
    assert values["phi"] is known["phi"]
    with pytest.raises(RegionError, match=r"distance\(1,18\): is not among the observables that were kept"):
        region_values(regions, molecule, known=known)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phl in [0, 130]", "no variable 'phl'; did you mean phi"),
        ("phi_positiv", "no such basin; did you mean phi_positive"),
        ("", "a region is empty"),
        ("phi", "no such basin; it has: phi_negative, phi_positive|did you mean"),
        ("phi in 0, 130", "expected a variable and its intervals"),
        ("phi in [0]", "expected an interval such as"),
        ("phi in [0, x]", "'x' is not a number"),
        ("phi in [0, 130] nor [140, 150]", "expected 'and', 'or' or the end"),
        ("phi in [0, 130] and", "at its end: expected a variable"),
        ("phi in [0, 130] or psi in [0, 10]", "'or' joins intervals of one variable"),
        ("phi in [0, 90] and phi in [60, 120]", "phi appears twice; join its intervals with 'or'"),
        ("phi in [130, 0]", "lower end first"),
        ("phi in [0, nan]", "lower end first"),
        ("phi in [0, 400]", "phi: .* not an arc of a circle"),
        ("angle(4, 6, 8) in [90, 200]", "leaves the range of this angle"),
        ("distance(1, 18) in [-1, 0.3]", "leaves the range of this distance"),
        ("distance(1, 99) in [0, 0.3]", "index is out of range; the system has 22 particles"),
        ("distance(1) in [0, 0.3]", "Field required"),
        ("distance(1, 1) in [0, 0.3]", "same particle appears twice"),
        ("distance in [0, 0.3]", "distance takes indices"),
        ("distance(a, b) in [0, 0.3]", "cannot be read"),
        ("distence(1, 18) in [0, 0.3]", "did you mean distance"),
        ("mdtraj.compute_rgg in [0, 0.3]", "did you mean compute_rg"),
        ("mdtraj.compute_rg(1) in [0, 0.3]", "takes keywords"),
        ("mdtraj.compute_rg[3] in [0, 0.3]", "column 3 of mdtraj.compute_rg is out of range"),
        ("__import__('os').system('true') in [0, 1]", "no variable"),
    ],
)
def test_what_is_written_wrongly_is_refused(molecule: System, text: str, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        parse_region(text, molecule)


def overlap(system: System, first: str, second: str) -> tuple[Region, Region]:
    return parse_region(first, system), parse_region(second, system)


@pytest.mark.parametrize(
    ("first", "second", "where"),
    [
        ("phi in [0, 130]", "phi in [-180, 0] or [120, 180]", r"where phi in \[120, 130\]"),
        ("phi in [150, 210]", "phi in [-160, 0]", r"where phi in \[200, 210\]"),
        ("phi in [0, 90]", "phi in [60, 120] and psi in [0, 9]", r"where phi in \[60, 90\]"),
        ("phi_positive", "phi_positive", r"where phi in \[0, 130\]"),
        ("angle(4,6,8) in [0, 120]", "angle(4, 6, 8) in [100, 180]", r"where angle\(4,6,8\) in \[100, 120\]"),
    ],
)  # fmt: skip
def test_regions_that_overlap_are_refused(molecule: System, first: str, second: str, where: str) -> None:
    with pytest.raises(RegionError, match=where):
        check_disjoint(*overlap(molecule, first, second))


def test_regions_that_touch_or_differ_in_one_variable_are_taken(molecule: System) -> None:
    for first, second in (
        ("phi in [0, 130]", "phi in [-180, 0] or [130, 180]"),
        ("phi in [-180, 180]", "phi in [180, 180.5]"),
        ("phi in [0, 90] and psi in [0, 90]", "phi in [0, 90] and psi in [90, 180]"),
        ("phi in [0, 90]", "psi in [0, 90]"),  # nobody knows without samples
    ):
        if "180.5" in second:
            with pytest.raises(RegionError, match="overlap"):
                check_disjoint(*overlap(molecule, first, second))
        else:
            check_disjoint(*overlap(molecule, first, second))


def test_samples_find_overlaps_of_different_variables(molecule: System, angles: Any) -> None:
    pair = overlap(molecule, "a: phi in [0, 90]", "b: psi in [0, 90]")
    masks = tuple(region.mask(angles) for region in pair)
    shared = int((masks[0] & masks[1]).sum())
    assert shared > 0
    with pytest.raises(RegionError, match=f"'a' and 'b' overlap: {shared} of 4000 frames lie in both"):
        check_disjoint(*pair, {"frames": (masks[0], masks[1])})
    check_disjoint(*pair, {"frames": (masks[0], masks[1] & ~masks[0])})


def test_regions_without_samples_are_refused_with_what_the_samples_visit(molecule: System) -> None:
    values = {"phi": np.radians([170.0, -175.0, 179.0]), "psi": np.radians([10.0, 30.0, 20.0])}
    region = parse_region("lost: phi in [0, 130] and psi in [0, 90]", molecule)
    message = r"region 'lost' \(phi in \[0, 130\] and psi in \[0, 90\]\): holds none of 3 samples; in them "
    with pytest.raises(EmptyBasinError, match=message + r"phi visits \[170, 185\], psi visits \[10, 30\]"):
        check_populated(region, region.mask(values), values, "samples")
    here = parse_region("phi in [160, 200]", molecule)
    check_populated(here, here.mask(values), values, "samples")
    empty: dict[str, np.ndarray] = {"phi": np.zeros(0), "psi": np.zeros(0)}
    with pytest.raises(EmptyBasinError, match="holds none of 0 samples"):
        check_populated(region, region.mask(empty), empty, "samples")
    assert issubclass(EmptyBasinError, BgdiffError)
