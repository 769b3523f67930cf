"""Observables against mdtraj and closed forms; definitions without sense are refused with their reason."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import pytest
from pydantic import ValidationError

from bgdiff.data.observables import angle, in_all, make_observable
from bgdiff.errors import SystemDefinitionError
from bgdiff.observable_spec import BasinSpec, ObservableSpec
from bgdiff.systems import System, load_system

SHIPPED = ("alanine_dipeptide_obc1", "alanine_dipeptide_vacuum", "double_well")


@pytest.fixture(scope="module")
def molecule() -> System:
    return load_system("alanine_dipeptide_vacuum")


@pytest.fixture(scope="module")
def x(molecule: System) -> np.ndarray:
    noise = np.random.default_rng(1).normal(scale=0.05, size=(50, 22, 3))
    return (molecule.structure + noise).astype(np.float32).astype(np.float64)


def measure(system: System, x: np.ndarray, **fields: Any) -> np.ndarray:
    return system.measure({"it": ObservableSpec.model_validate(fields)}, x)["it"]


def system_with(folder: Path, old: str, new: str) -> System:
    """The molecule, copied, with a change in its system.yaml that its reference does not survive."""
    shutil.copytree(
        load_system("alanine_dipeptide_vacuum").path, folder, ignore=shutil.ignore_patterns("*.dcd")
    )
    text = (folder / "system.yaml").read_text()
    assert old in text
    (folder / "system.yaml").write_text(text.replace(old, new, 1).replace("reference: reference.json", ""))
    return System(folder)


def test_geometry_agrees_with_mdtraj(molecule: System, x: np.ndarray) -> None:
    trajectory = mdtraj.Trajectory(x, molecule.topology)
    cases = [
        ({"dihedral": [4, 6, 8, 14]}, mdtraj.compute_dihedrals(trajectory, [[4, 6, 8, 14]])),
        ({"angle": [4, 6, 8]}, mdtraj.compute_angles(trajectory, [[4, 6, 8]])),
        ({"distance": [1, 18]}, mdtraj.compute_distances(trajectory, [[1, 18]])),
        ({"radius_of_gyration": {}}, mdtraj.compute_rg(trajectory)[:, None]),
        ({"component": [3, 1]}, x[:, 3, 1:2]),
    ]
    for fields, expected in cases:
        values = measure(molecule, x, **fields)
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected[:, 0], atol=1e-4, err_msg=str(fields))


def test_angles_are_accurate_at_both_ends_and_in_the_plane() -> None:
    for truth in (1e-7, 0.3, np.pi / 2, np.pi - 1e-7, np.pi):
        x = np.array([[[2.0, 0.0], [0.0, 0.0], [3 * np.cos(truth), 3 * np.sin(truth)]]])
        assert angle(x, (0, 1, 2))[0] == pytest.approx(truth, abs=1e-14)


def test_radius_of_gyration_with_masses_and_of_some_atoms(molecule: System, x: np.ndarray) -> None:
    """By the identity Rg² = Σ_{i<j} m_i m_j r_ij² / (Σ m)², which needs no centre."""
    masses = np.array([atom.element.mass for atom in molecule.topology.atoms])
    for atoms in (list(range(22)), [1, 4, 6, 8]):
        for mass, weighted in ((masses[atoms], True), (np.ones(len(atoms)), False)):
            r2 = ((x[:, atoms, None] - x[:, None, atoms]) ** 2).sum(-1)
            expected = np.sqrt(np.einsum("bij,i,j->b", r2, mass, mass) / 2) / mass.sum()
            spec = {"atoms": atoms if len(atoms) < 22 else "all", "mass_weighted": weighted}
            np.testing.assert_allclose(measure(molecule, x, radius_of_gyration=spec), expected, rtol=1e-12)


def test_rmsd_ignores_rigid_motion_and_finds_the_displacement(molecule: System, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    x = (molecule.structure @ rotation + rng.normal(size=3))[None]
    zero = 3e-4  # nm: mdtraj works in single precision, and the square of an RMSD is a difference
    assert measure(molecule, x, rmsd={})[0] < zero
    # breathing about the centre of the atoms turns nothing, so the best superposition is the given one
    centred = molecule.structure - molecule.structure.mean(0)
    expected = 0.1 * np.sqrt((centred**2).sum(1).mean())
    assert measure(molecule, 1.1 * x, rmsd={})[0] == pytest.approx(expected, rel=1e-4)
    heavy = [atom.index for atom in molecule.topology.atoms if atom.element.symbol != "H"]
    moved = x + 0.3 * ~np.isin(np.arange(22), heavy)[None, :, None] * rng.normal(size=x.shape)
    assert measure(molecule, moved, rmsd={"atoms": "heavy"})[0] < zero
    assert measure(molecule, moved, rmsd={"atoms": heavy})[0] < zero
    assert measure(molecule, moved, rmsd={"atoms": "all"})[0] > 0.05

    system = system_with(tmp_path / "own", "psi: {", "fold: {rmsd: {file: frames.dcd, frame: 1}}\n  psi: {")
    frames = np.concatenate([molecule.structure[None], 1.1 * x])
    mdtraj.Trajectory(frames, molecule.topology).save(str(system.path / "frames.dcd"))
    assert system.observables(1.1 * x)["fold"][0] < zero
    assert system.observables(x)["fold"][0] == pytest.approx(expected, rel=1e-2)
    digest = system.question_digest
    mdtraj.Trajectory(frames[::-1], molecule.topology).save(str(system.path / "frames.dcd"))
    assert System(system.path).question_digest != digest


def test_functions_of_mdtraj_give_what_mdtraj_gives(molecule: System, x: np.ndarray) -> None:
    trajectory = mdtraj.Trajectory(x, molecule.topology)
    atoms = [[4, 6, 8, 14], [6, 8, 14, 16]]
    cases: list[tuple[dict[str, Any], np.ndarray]] = [
        ({"function": "compute_rg"}, mdtraj.compute_rg(trajectory)),
        ({"function": "compute_phi"}, mdtraj.compute_phi(trajectory)[1][:, 0]),
        ({"function": "compute_center_of_mass", "column": 2},
         mdtraj.compute_center_of_mass(trajectory)[:, 2]),
        ({"function": "compute_dihedrals", "arguments": {"indices": atoms}, "column": 1},
         mdtraj.compute_dihedrals(trajectory, np.array(atoms))[:, 1]),
        ({"function": "compute_contacts", "arguments": {"contacts": [[0, 2]], "ignore_nonprotein": False}},
         mdtraj.compute_contacts(trajectory, [[0, 2]], ignore_nonprotein=False)[0][:, 0]),
        ({"function": "asphericity"}, mdtraj.geometry.asphericity(trajectory)),
    ]  # fmt: skip
    for fields, expected in cases:
        np.testing.assert_allclose(
            measure(molecule, x, mdtraj=fields), expected, rtol=1e-6, err_msg=str(fields)
        )
    specs = {fields["function"]: ObservableSpec.model_validate({"mdtraj": fields}) for fields, _ in cases}
    assert {name for name, spec in specs.items() if spec.periodic} == {"compute_phi", "compute_dihedrals"}
    phi = ObservableSpec.model_validate({"mdtraj": {"function": "compute_phi"}})
    made = molecule.observable("phi", phi)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made))(x), made(x))  # goes to other processes
    assert made(x[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"function": "compute_phy"}, "mdtraj has no function 'compute_phy'.*did you mean compute_phi"),
        ({"function": "load"}, "mdtraj has no function 'load'"),
        ({"function": "compute_rg", "arguments": {"mass": [1]}}, "no argument 'mass'; it has: masses"),
        ({"function": "compute_angles"}, "compute_angles needs the argument 'angle_indices'"),
        ({"function": "compute_angles", "arguments": {"angle_indices": [[0, 1, 99]]}}, "fails on this"),
        ({"function": "compute_rg", "column": 1}, "column 1 of mdtraj.compute_rg is out of range; it has 1"),
        ({"function": "compute_inertia_tensor"}, "does not return one number, or one row of numbers"),
        ({"function": "compute_dssp"}, "does not return one number"),
        ({"function": "kabsch_sander"}, "does not return one number"),
        ({"function": "compute_chi1"}, "column 0 of mdtraj.compute_chi1 is out of range; it has 0"),
    ],
)  # fmt: skip
def test_functions_without_sense_are_refused(molecule: System, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemDefinitionError, match=message):
        molecule.observable("mine", ObservableSpec.model_validate({"mdtraj": fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"angle": [0, 1, 22]}, "mine: index is out of range"),
        ({"radius_of_gyration": {"atoms": [0, 30]}}, "mine: index is out of range"),
        ({"count": {"axis": 3, "intervals": [[0, 1]]}}, "mine: index is out of range"),
        ({"rmsd": {"frame": 1}}, "mine: frame 1 needs a file"),
        ({"rmsd": {"file": "nowhere.dcd"}}, "nowhere.dcd"),
        ({"rmsd": {"file": "data/md.dcd", "frame": 10**9}}, "frames, counted from 0"),
    ],
)
def test_indices_and_files_are_checked(molecule: System, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemDefinitionError, match=message):
        molecule.observable("mine", ObservableSpec.model_validate(fields))


def test_definitions_are_checked_when_the_target_is_made(tmp_path: Path) -> None:
    system = system_with(tmp_path / "own", "psi: {", "bad: {mdtraj: {function: compute_phy}}\n  psi: {")
    with pytest.raises(
        SystemDefinitionError, match=r"system\.yaml: observables\.bad: mdtraj has no function"
    ):
        _ = system.target
    well = load_system("double_well")
    for fields in ({"rmsd": {}}, {"mdtraj": {"function": "compute_rg"}}):
        with pytest.raises(SystemDefinitionError, match="needs a molecule"):
            well.observable("mine", ObservableSpec.model_validate(fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give exactly one of dihedral, angle"),
        ({"angle": [0, 1, 2], "distance": [0, 1]}, "give exactly one"),
        ({"angle": [0, 1, 0]}, "same particle appears twice"),
        ({"rmsd": {"atoms": [0, 1]}}, "at least 3"),
        ({"count": {"axis": 0, "intervals": [[1, 0]]}}, "lower end first"),
        ({"mdtraj": {"function": "os.system"}}, "pattern"),
        ({"mdtraj": {"function": "compute_rg", "columns": 1}}, "columns"),
    ],
)
def test_fields_without_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ObservableSpec.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "interval", "message"),
    [
        ({"angle": [0, 1, 2]}, (-10, 20), r"leaves the range of this angle, \[0, 180\] degrees"),
        ({"angle": [0, 1, 2]}, (90, 200), "leaves the range"),
        ({"distance": [0, 1]}, (-0.1, 1), r"leaves the range of this distance, \[0, inf\]"),
        ({"distance": [0, 1]}, (-np.inf, 0), "leaves the range"),
        ({"radius_of_gyration": {}}, (-1, 1), "leaves the range of this radius of gyration"),
        ({"dihedral": [0, 1, 2, 3]}, (0, 400), "not an arc of a circle"),
        ({"dihedral": [0, 1, 2, 3]}, (0, np.inf), "not an arc of a circle"),
        ({"dihedral": [0, 1, 2, 3]}, (400, 500), "more than a turn away"),
        ({"component": [0, 1]}, (2, 1), "lower end first"),
    ],
)
def test_intervals_must_lie_in_the_range(fields: dict[str, Any], interval: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObservableSpec.model_validate(fields).check_intervals([interval])


def test_intervals_within_the_range_are_taken() -> None:
    for fields, interval in (
        ({"angle": [0, 1, 2]}, (0, 180)),
        ({"distance": [0, 1]}, (0, np.inf)),
        ({"dihedral": [0, 1, 2, 3]}, (150, 210)),
        ({"component": [0, 1]}, (-np.inf, -3)),
    ):
        ObservableSpec.model_validate(fields).check_intervals([interval])  # type: ignore[list-item]


def test_basins_of_several_observables(tmp_path: Path, x: np.ndarray) -> None:
    conditions = "[{observable: phi, intervals: [[0, 90]]}, {observable: bend, intervals: [[100, 120]]}]"
    system = system_with(
        tmp_path / "own",
        "basins:",
        f"  bend: {{angle: [6, 8, 14]}}\n\nbasins:\n  corner: {{conditions: {conditions}}}\n #",
    )
    values = system.observables(x)
    phi, bend = np.degrees(values["phi"]), np.degrees(values["bend"])
    expected = (phi >= 0) & (phi < 90) & (bend >= 100) & (bend < 120)
    np.testing.assert_array_equal(system.basin("corner", values), expected)
    assert 0 < expected.sum() < len(expected)
    twice = [{"observable": "phi", "intervals": [(0, 1)]}] * 2
    for fields, message in (
        ({"conditions": twice}, "an observable appears twice"),
        ({"observable": "phi"}, "give observable and intervals"),
        (
            {"observable": "phi", "intervals": [(0, 1)], "conditions": twice[:1]},
            "give observable and intervals",
        ),
    ):
        with pytest.raises(ValidationError, match=message):
            BasinSpec.model_validate(fields)


def test_counts_of_particles() -> None:
    spec = ObservableSpec.model_validate({"count": {"axis": 1, "intervals": [[0, 1], [2, np.inf]]}})
    x = np.zeros((1, 4, 2))
    x[0, :, 1] = [0.0, 1.0, 2.0, -3.0]  # in, out (half-open), in, out
    observable = make_observable("right", spec, (4, 2))
    assert observable(x).tolist() == [2.0]
    basin = BasinSpec.model_validate({"observable": "right", "intervals": [(2, 3)]})
    assert in_all(basin.terms, {"right": spec}, {"right": observable(x)}).tolist() == [True]


def test_shipped_references_answer_the_same_questions() -> None:
    """New kinds of observables leave the digests of old definitions alone."""
    for name in SHIPPED:
        assert load_system(name).reference["free_energy_differences"]
