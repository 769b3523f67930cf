"""Systems: found, read, checked field by field, and asked for observables and basins."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch

from bgdiff.errors import SystemDefinitionError
from bgdiff.systems import list_systems, load_system
from bgdiff.targets.base import Target

SHIPPED = ["alanine_dipeptide_obc1", "alanine_dipeptide_vacuum", "double_well", "many_well_32"]


@pytest.fixture
def copy(tmp_path):
    """Return a function that copies a shipped system and replaces text in its system.yaml."""

    def make(name, old="", new=""):
        folder = tmp_path / name
        shutil.copytree(load_system(name).path, folder, ignore=shutil.ignore_patterns("*.dcd"))
        text = (folder / "system.yaml").read_text()
        assert old in text
        (folder / "system.yaml").write_text(text.replace(old, new, 1))
        return folder

    return make


def test_shipped_systems_are_listed_and_complete():
    assert set(SHIPPED) <= set(list_systems())
    for name in SHIPPED:
        system = load_system(name)
        assert system.name == name
        assert system.data_path.is_file()
        assert isinstance(system.target, Target)
        assert {item["name"] for item in system.reference["free_energy_differences"]} == {
            item.name for item in system.differences
        }


def test_a_system_is_found_by_path_by_folder_and_by_variable(copy, tmp_path, monkeypatch):
    folder = copy("double_well", "a: 1.0", "a: 0.5")
    by_path = load_system(folder)
    assert by_path.spec.parameters.a == 0.5
    assert load_system(str(folder / "system.yaml")).digest == by_path.digest
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("BGDIFF_SYSTEMS", str(tmp_path))
    assert load_system("double_well").spec.parameters.a == 0.5
    monkeypatch.delenv("BGDIFF_SYSTEMS")
    assert load_system("double_well").spec.parameters.a == 1.0
    shutil.copytree(folder, tmp_path / "here" / "systems" / "mine")
    assert load_system("mine").spec.parameters.a == 0.5
    assert "mine" in list_systems()


def test_an_unknown_system_is_refused_with_a_suggestion():
    with pytest.raises(SystemDefinitionError, match="did you mean 'alanine_dipeptide_vacuum'") as error:
        load_system("alanine_dipetide_vacum")
    assert "double_well" in str(error.value)
    with pytest.raises(SystemDefinitionError, match=r"no system\.yaml"):
        load_system("./nowhere")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("temperature: 300.0 ", "temperature: -3 ", "temperature: Input should be greater than 0"),
        ("temperature: 300.0 ", "temperature: warm ", "temperature: Input should be a valid number"),
        ("kind: openmm", "kind: gromacs", "kind: must be one of .*, many_well, .*, not 'gromacs'"),
        ("kind: openmm", "sort: openmm", "kind: Field required"),
        ("coordinates: internal", "colour: red", "colour: there is no such field"),
        ("[[0, 130]]", "[[0, blue]]", "basins.phi_positive.intervals.0.1"),
        ("[[0, 130]]", "[[130, 0]]", "basins.phi_positive: interval"),
        ("[[0, 130]]", "[[0, 400]]", "basins.phi_positive.intervals: .* not an arc"),
        ("phi_positive: {observable: phi", "phi_positive: {observable: chi", "there is no observable 'chi'"),
        ("final: phi_positive", "final: elsewhere", "free_energy_differences.0: there is no basin"),
        ("{dihedral: [4, 6, 8, 14]}", "{dihedral: [4, 6, 8]}", "observables.phi.dihedral.3: Field required"),
        ("{dihedral: [4, 6, 8, 14]}", "{dihedral: [4, 6, 8, 8]}", "observables.phi: the same particle"),
        ("{dihedral: [4, 6, 8, 14]}", "{}", "observables.phi: give exactly one"),
        ("step_fs: 1.0", "step_fs: 0", "generate.step_fs"),
        ("spacing_ps: 1.0", "spacing_ps: 0.0001", "generate: spacing_ps is shorter"),
        ("{phi: -80, psi: 75}", "{omega: 180}", "generate.starts.0: 'omega' is not a torsion"),
        ("t_max: 650.0", "t_max: 200", "replica_exchange.t_max: must be above"),
        ("system: system.xml", "system: other.xml", "names other.xml, but there is no such file"),
        ("name: alanine", "name: [alanine", "is not valid YAML"),
    ],
)
def test_a_wrong_field_is_named(copy, old, new, message):
    folder = copy("alanine_dipeptide_vacuum", old, new)
    with pytest.raises(SystemDefinitionError, match=message) as error:
        load_system(folder)
    assert str(folder / "system.yaml") in str(error.value)


def test_files_that_contradict_the_definition_are_refused(copy):
    folder = copy("alanine_dipeptide_vacuum", "[6, 8, 14, 16]", "[6, 8, 14, 22]")
    with pytest.raises(SystemDefinitionError, match=r"observables\.psi: index is out of range"):
        _ = load_system(folder).target
    (folder / "topology.pdb").write_text("no atoms here\n")
    with pytest.raises(SystemDefinitionError, match=r"topology\.pdb"):
        _ = load_system(folder).topology
    (folder / "system.xml").write_text("<Integrator/>")
    with pytest.raises(SystemDefinitionError, match=r"system\.xml: is not a serialised OpenMM System"):
        _ = load_system(folder).target


def test_atoms_of_topology_and_potential_must_agree_in_number(copy):
    folder = copy("alanine_dipeptide_vacuum")
    mdtraj.load(folder / "topology.pdb").atom_slice(range(21)).save(folder / "topology.pdb")
    with pytest.raises(SystemDefinitionError, match="has 21 atoms, but system.xml has 22 particles"):
        _ = load_system(folder).target


def test_digests_follow_what_they_stand_for(copy):
    system = load_system("double_well")
    retitled = load_system(copy("double_well", "title: Double", "title: My double"))
    assert retitled.digest != system.digest
    assert retitled.ensemble_digest == system.ensemble_digest
    assert retitled.question_digest == system.question_digest


def test_a_reference_for_another_question_is_refused(copy):
    folder = copy("double_well", "[[0, .inf]]", "[[0.1, .inf]]")
    system = load_system(folder)
    assert system.ensemble_digest == load_system("double_well").ensemble_digest
    with pytest.raises(SystemDefinitionError, match="remake it with: bgdiff reference double_well"):
        _ = system.reference
    (folder / "reference.json").write_text("{")
    with pytest.raises(SystemDefinitionError, match="missing or malformed"):
        _ = load_system(folder).reference


def test_torsions_agree_with_mdtraj_on_the_whole_circle():
    system = load_system("alanine_dipeptide_vacuum")
    noise = np.random.default_rng(1).normal(scale=0.05, size=(200, 22, 3))
    x = (system.structure + noise).astype(np.float32)
    observables = system.observables(torch.from_numpy(x))
    trajectory = mdtraj.Trajectory(x, system.topology)
    for name, spec in system.spec.observables.items():
        expected = mdtraj.compute_dihedrals(trajectory, [spec.dihedral])[:, 0]
        assert observables[name].dtype == np.float64
        np.testing.assert_allclose(observables[name], expected, atol=1e-4)


def test_basins_cut_the_circle_without_gap_or_overlap():
    system = load_system("alanine_dipeptide_vacuum")
    degrees = np.array([-180.0, -179.9, -60.0, -0.1, 0.0, 60.0, 129.9, 130.1, 179.9, 180.0])
    observables = {"phi": np.radians(degrees), "psi": np.zeros(len(degrees))}
    negative = system.basin("phi_negative", observables)
    positive = system.basin("phi_positive", observables)
    assert np.array_equal(negative, ~positive)
    assert positive.tolist() == [False] * 4 + [True] * 3 + [False] * 3
    with pytest.raises(SystemDefinitionError, match="no basin 'c5'; it has: phi_negative, phi_positive"):
        system.basin("c5", observables)


def test_components_and_distances():
    system = load_system("double_well")
    x = torch.tensor([[[1.0, 2.0]], [[-3.0, 4.0]]])
    observables = system.observables(x)
    assert observables["x"].tolist() == [1.0, -3.0]
    assert observables["y"].tolist() == [2.0, 4.0]
    assert system.basin("right", observables).tolist() == [True, False]


def test_systems_are_listed_without_the_heavy_libraries():
    code = (
        "import sys, bgdiff.systems as s; [s.load_system(n).reference for n in s.list_systems()];"
        "print([m for m in ('torch', 'openmm', 'mdtraj', 'scipy') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_provenance_of_the_shipped_files():
    for name in SHIPPED:
        system = load_system(name)
        provenance = json.loads((system.path / system.spec.data.provenance).read_text())
        assert provenance["ensemble_digest"] == system.ensemble_digest
        settings = system.spec.generate or system.spec.replica_exchange
        assert type(settings).model_validate(provenance["settings"]) == settings
        assert provenance["command"].startswith(f"bgdiff data generate {name}")
        assert system.data_path.stat().st_size <= 16e6
