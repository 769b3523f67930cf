"""``bgdiff.setup``: a system folder from a structure and a force field, or from files of other programs."""

from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from bgdiff.errors import ConfigError, StorageError, SystemDefinitionError
from bgdiff.regions import RegionError, parse_region
from bgdiff.setup import FromAmber, FromGromacs, FromStructure, FromSystem, new_system
from bgdiff.setup.checks import check_molecule
from bgdiff.setup.geometry import handedness, stereocentres
from bgdiff.setup.molecule import Molecule, bond_pairs
from bgdiff.system_spec import MDSpec, OpenMMSpec
from bgdiff.systems import System, load_system
from tests.molecules import twist_folder
from tests.other_programs import X, chain_energy, write_amber, write_gromacs
from tests.peptides import AMINO_ACIDS, OTHER_FORMS, peptide, peptide_structure, peptide_system
from tests.structures import Told, pdb_lines, write_pdb

SYSTEMS = Path(__file__).resolve().parent.parent / "systems"


def energy(system: openmm.System, x: Any) -> float:
    """kJ/mol, in double precision."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(x)
    return float(context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
    """ACE-ALA-LEU-NME in OBC1, with two basins of the user's."""
    folder = tmp_path_factory.mktemp("new")
    pdb = write_pdb(folder / "input.pdb", pdb_lines("ALA", "LEU"))
    told = Told()
    path = new_system(
        "mine",
        FromStructure(pdb, ("amber96.xml",), "obc1"),
        temperature=310.0,
        basins=("phi_1 in [-180, 0]", "left: phi_1 in [0, 130] and distance(0, 18) in [0, 0.9]"),
        out=folder / "place" / "here",
        command="bgdiff new mine --pdb input.pdb",
        tell=told,
    )
    return path, told


class TestFolder:
    def test_it_loads_and_runs_by_its_path(self, made: tuple[Path, Told]) -> None:
        system = load_system(str(made[0]))
        assert (system.name, system.temperature) == ("mine", 310.0)
        assert system.spec.title.startswith("mine (ACE-ALA-LEU-NME), amber96 in implicit water (OBC1), ")
        assert system.data_path == made[0] / "data" / "md.dcd"
        x = torch.from_numpy(system.structure)[None]
        values = system.observables(x)
        assert set(values) == set(system.spec.observables)
        assert torch.isfinite(system.target.energy(x)).all()

    def test_a_name_is_found_where_it_was_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        folder = new_system("mine", FromAmber(*write_amber(tmp_path)))
        assert folder == Path("mine")
        assert load_system("mine").path == load_system("mine/").path == folder

    def test_topology_is_the_minimum(self, made: tuple[Path, Told]) -> None:
        system = System(made[0])
        x = torch.from_numpy(system.structure)[None]
        _, force = system.target.energy_and_force(x)
        # three decimals in Å move stiff bonds: 5e-5 nm by some 3e5 kJ/mol/nm² are 6 kT/nm
        assert force.abs().max() < 20
        topology = app.PDBFile(str(made[0] / "topology.pdb")).topology
        given = peptide_structure(peptide("ALA", "LEU"))
        pairs = np.array(bond_pairs(topology))
        lengths = [np.linalg.norm(p[pairs[:, 0]] - p[pairs[:, 1]], axis=1) for p in (given, system.structure)]
        np.testing.assert_allclose(*lengths, atol=0.006)
        centres = stereocentres(topology)
        assert {list(topology.atoms())[index].name for index, _ in centres} == {"CA"}
        assert len(centres) == 2
        assert (handedness(given, centres) == handedness(system.structure, centres)).all()

    def test_what_it_is_made_of_is_in_the_comment(self, made: tuple[Path, Told]) -> None:
        head = (made[0] / "system.yaml").read_text(encoding="utf-8").split("\n\n")[0]
        assert all(line.startswith("# ") for line in head.splitlines())
        for part in (openmm.__version__, "bgdiff new mine", "input.pdb", "amber96.xml, implicit/obc1.xml"):
            assert part in head

    def test_basins_of_the_user(self, made: tuple[Path, Told]) -> None:
        system = System(made[0])
        assert set(system.spec.basins) == {"basin_1", "left"}
        assert [(d.initial, d.final) for d in system.differences] == [("basin_1", "left")]
        region = parse_region("left", system)
        assert str(region) == "phi_1 in [0, 130] and distance_0_18 in [0, 0.9]"

    def test_data_come_from_every_start(self, made: tuple[Path, Told]) -> None:
        spec = System(made[0]).spec
        assert isinstance(spec, OpenMMSpec)
        assert isinstance(spec.generate, MDSpec)
        assert spec.replica_exchange is not None
        phi = np.array([start["phi_1"] for start in spec.generate.starts])
        assert (phi > 0).any()
        assert (phi < 0).any()
        assert {start["chi1"] for start in spec.generate.starts} == {-60, 60, 180}
        frames = len(spec.generate.starts) * spec.generate.chains_per_start
        frames *= round(1000 * spec.generate.length_ns / spec.generate.spacing_ps)
        assert 40_000 < frames <= 50_000

    def test_checks_are_told(self, made: tuple[Path, Told]) -> None:
        assert made[1]["evaluated by"] == "the batched engine"
        assert {"atoms", "energy", "coordinates", "starts", "torsions"} <= set(made[1])
        assert "strain" not in made[1]

    @pytest.mark.parametrize(
        ("name", "options", "error", "said"),
        [
            ("a b", {}, ConfigError, "name 'a b': must be of letters"),
            ("a/b", {}, ConfigError, "with --out"),
            ("a", {"temperature": -300.0}, ConfigError, "temperature -300: must be in kelvin"),
            ("a", {"temperature": float("nan")}, ConfigError, "must be in kelvin"),
            ("a", {"basins": ("left: torsoin in [0, 90]",)}, RegionError, "torsoin"),
            ("a", {"basins": ("torsion in [0, 90]", "torsion in [80, 100]")}, RegionError, "overlap"),
            (
                "a",
                {"basins": ("b: torsion in [0, 9]", "b: torsion in [10, 20]")},
                ConfigError,
                "another name",
            ),
            ("a", {"basins": ("torsion in [0, 360]",)}, ConfigError, "covers all"),
            (
                "a",
                {"basins": ("torsion in [0, 90] and distance(0, 3) in [0, 1]",)},
                ConfigError,
                "say with another --basin",
            ),
        ],
    )
    def test_nothing_is_left_of_what_fails(
        self, tmp_path: Path, name: str, options: dict[str, Any], error: type[Exception], said: str
    ) -> None:
        source = FromAmber(*write_amber(tmp_path))
        before = sorted(tmp_path.iterdir())
        with pytest.raises(error, match=said):
            new_system(name, source, out=tmp_path / "a", **options)
        assert sorted(tmp_path.iterdir()) == before

    def test_a_folder_that_exists_is_left_alone(self, tmp_path: Path) -> None:
        source = FromAmber(*write_amber(tmp_path))
        (tmp_path / "a").mkdir()
        with pytest.raises(ConfigError, match="a: exists already; remove it, or choose another"):
            new_system("a", source, out=tmp_path / "a")
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="file"):
            new_system("a", source, out=tmp_path / "file" / "a")

    def test_one_basin_is_compared_with_the_rest(self, tmp_path: Path) -> None:
        source = FromAmber(*write_amber(tmp_path))
        system = System(new_system("1e5", source, basins=["low: torsion in [150, 200]"], out=tmp_path / "x"))
        assert system.name == "1e5"  # YAML would read a number
        assert [(d.initial, d.final) for d in system.differences] == [("not_low", "low")]
        phi = np.radians(np.linspace(-179.5, 179.5, 360))
        inside = [system.basin(name, {"torsion": phi}) for name in ("low", "not_low")]
        assert (inside[0] ^ inside[1]).all()
        assert inside[0].sum() == 50


class TestForceFields:
    @pytest.mark.parametrize(("name", "implicit"), [("vacuum", None), ("obc1", "obc1")])
    def test_the_potential_of_the_shipped_systems(self, name: str, implicit: str | None) -> None:
        """Those were made of Amber's own files."""
        folder = SYSTEMS / f"alanine_dipeptide_{name}"
        molecule = FromStructure(folder / "topology.pdb", ("amber96.xml",), implicit).build(Told())
        shipped = openmm.XmlSerializer.deserialize((folder / "system.xml").read_text())
        rng = np.random.default_rng(0)
        for x in molecule.positions + rng.normal(scale=0.003, size=(3, *molecule.positions.shape)):
            assert energy(molecule.system, x) == pytest.approx(energy(shipped, x), abs=1e-3)

    @pytest.mark.parametrize("implicit", ["hct", "obc2", "gbn", "gbn2"])
    def test_implicit_solvents_agree_with_those_of_amber_files(self, tmp_path: Path, implicit: str) -> None:
        """The same model by OpenMM's other way, from radii in a prmtop."""
        prmtop, inpcrd = write_amber(tmp_path)
        molecule = FromAmber(prmtop, inpcrd, implicit).build(Told())
        model = {"hct": app.HCT, "obc2": app.OBC2, "gbn": app.GBn, "gbn2": app.GBn2}[implicit]
        system = app.AmberPrmtopFile(str(prmtop)).createSystem(implicitSolvent=model)
        assert energy(molecule.system, X) == energy(system, X)
        assert energy(molecule.system, X) != pytest.approx(chain_energy(X), abs=0.1)
        assert implicit.upper() in molecule.solvent.upper()

    def test_a_solvent_file_of_another_force_field_is_refused(self, tmp_path: Path) -> None:
        """OpenMM's amber10_obc.xml numbers atom types otherwise than amber10.xml, and loads all the same."""
        pdb = write_pdb(tmp_path / "x.pdb", pdb_lines("ALA"))
        wrong = FromStructure(pdb, ("amber10.xml", "amber10_obc.xml"))
        with pytest.raises(SystemDefinitionError, match="in its implicit solvent"):
            new_system("x", wrong, out=tmp_path / "x")
        right = FromStructure(pdb, ("amber99sbildn.xml", "amber99_obc.xml")).build(Told())
        check_molecule(right, "x.pdb", 300.0, Told())
        assert right.solvent == "implicit water (GBSAOBCForce)"

    @pytest.mark.parametrize("residues", [AMINO_ACIDS[:10], (*AMINO_ACIDS[10:13], "GLY", *OTHER_FORMS)])
    def test_bonds_of_all_residues_are_read_back(self, tmp_path: Path, residues: tuple[str, ...]) -> None:
        from bgdiff.setup.folder import _write_molecule

        topology = peptide(*residues)
        x = np.random.default_rng(0).normal(size=(topology.getNumAtoms(), 3))
        system = peptide_system(topology, "ff14SB", "vacuum")
        _write_molecule(tmp_path, Molecule(topology, system, x, "", "", ()), "x")
        read = mdtraj.load(str(tmp_path / "topology.pdb")).topology
        bonds = {frozenset((a.index, b.index)) for a, b in read.bonds}
        assert bonds == {frozenset(pair) for pair in bond_pairs(topology)}


class TestOtherPrograms:
    def test_amber_and_gromacs_are_the_same_chain(self, tmp_path: Path) -> None:
        for molecule in (
            FromAmber(*write_amber(tmp_path)).build(Told()),
            FromGromacs(*write_gromacs(tmp_path)).build(Told()),
        ):
            np.testing.assert_allclose(molecule.positions, X, atol=1e-6)
            assert energy(molecule.system, molecule.positions) == pytest.approx(chain_energy(X), abs=1e-5)
            assert molecule.topology.getPeriodicBoxVectors() is None

    def test_files_that_do_not_belong_together(self, tmp_path: Path) -> None:
        prmtop, inpcrd = write_amber(tmp_path)
        top, gro = write_gromacs(tmp_path)
        few = tmp_path / "few.gro"
        lines = gro.read_text().splitlines(keepends=True)
        few.write_text("".join([lines[0], "    3\n", *lines[2:5], lines[6]]))
        for source, said in (
            (FromAmber(prmtop, gro), r"chain\.gro: is cut off, or is not an Amber inpcrd"),
            (FromAmber(top, inpcrd), r"chain\.top: is cut off, or is not an Amber prmtop"),
            (FromGromacs(top, few), r"few\.gro: has 3 atoms, but the potential has 4"),
            (FromGromacs(top, tmp_path), "is a directory"),
            (FromGromacs(top, gro, tmp_path / "none"), "is not a folder"),
        ):
            with pytest.raises((ConfigError, SystemDefinitionError), match=said):
                source.build(Told())
        top.write_text('#include "amber99.ff/forcefield.itp"\n' + top.read_text())
        with pytest.raises(SystemDefinitionError, match="--include DIR"):
            FromGromacs(top, gro).build(Told())

    def test_a_system_and_its_topology(self, tmp_path: Path) -> None:
        folder = twist_folder(tmp_path / "twist")
        molecule = FromSystem(folder / "system.xml", folder / "topology.pdb").build(Told())
        assert bond_pairs(molecule.topology) == [(0, 1), (1, 2), (2, 3)]
        lines = (folder / "topology.pdb").read_text().splitlines(keepends=True)
        bare = write_pdb(tmp_path / "bare.pdb", [line for line in lines if not line.startswith("CONECT")])
        told = Told()
        again = FromSystem(folder / "system.xml", bare).build(told)
        assert set(bond_pairs(again.topology)) == {(0, 1), (1, 2), (2, 3)}
        assert told["bonds"] == "3 taken from system.xml, because bare.pdb has none"
