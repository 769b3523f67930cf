"""Structures that ``bgdiff new`` reads: what it mends, what it says it chose, and what it refuses."""

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from openmm import app

from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.setup import FromStructure
from bgdiff.setup.molecule import Molecule
from tests.peptides import peptide, peptide_structure
from tests.structures import (
    Told,
    atom_line,
    atom_name,
    in_chain,
    is_atom,
    is_hydrogen,
    pdb_lines,
    residue_name,
    small_force_field,
    without,
    write_pdb,
)

SEQUENCE = ("ALA", "LEU", "SER")
SEQRES = "SEQRES   1 A    5  ACE ALA LEU SER NME\n"
WATER = "HETATM  900  O   HOH B 101      30.000  30.000  30.000  1.00  0.00           O\n"
SODIUM = "HETATM  901 NA    NA B 102      35.000  30.000  30.000  1.00  0.00          NA\n"


@pytest.fixture(autouse=True, scope="module")
def force_field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Amber's ff96 for the residues of these tests, as ``amber.xml`` in the current directory."""
    folder = tmp_path_factory.mktemp("force-field")
    small_force_field(folder / "amber.xml", "ACE", "NME", *SEQUENCE)
    with contextlib.chdir(folder):
        yield


@pytest.fixture
def whole() -> list[str]:
    return pdb_lines(*SEQUENCE)


def build(folder: Path, lines: Iterable[str], **options: object) -> tuple[Molecule, Told]:
    told = Told()
    source = FromStructure(write_pdb(folder / "x.pdb", lines), ("amber.xml",), **options)  # type: ignore[arg-type]
    return source.build(told), told


def refusal(folder: Path, lines: Iterable[str], **options: object) -> str:
    with pytest.raises((ConfigError, SystemDefinitionError)) as caught:
        build(folder, lines, **options)
    return str(caught.value)


class TestFiles:
    def test_a_whole_structure_says_nothing(self, tmp_path: Path, whole: list[str]) -> None:
        molecule, told = build(tmp_path, whole)
        assert molecule.topology.getNumAtoms() == sum(map(is_atom, whole))
        assert not told

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("", "is empty"),
            ("HEADER\nEND\n", "has no atoms"),
            (b"\x1f\x8b\x08\xff\xfe", "is not a text file"),
        ],
    )
    def test_files_that_hold_no_structure(self, tmp_path: Path, content: str | bytes, said: str) -> None:
        path = tmp_path / "x.pdb"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(SystemDefinitionError, match=rf"x\.pdb: {said}"):
            FromStructure(path, ("amber.xml",)).build(Told())

    def test_directories_and_files_that_are_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(SystemDefinitionError, match="is a directory"):
            FromStructure(tmp_path, ("amber.xml",)).build(Told())
        with pytest.raises(SystemDefinitionError, match=r"no\.pdb: there is no such file"):
            FromStructure(tmp_path / "no.pdb", ("amber.xml",)).build(Told())

    def test_a_file_that_ends_inside_a_line_is_told_by_the_line(
        self, tmp_path: Path, whole: list[str]
    ) -> None:
        assert "line 21 is cut off" in refusal(tmp_path, [*whole[:20], whole[20][:45]])

    def test_the_first_of_several_models(self, tmp_path: Path, whole: list[str]) -> None:
        atoms = [line for line in whole if is_atom(line)]
        second = in_chain(atoms, "A", 3.0)
        models = ["MODEL        1\n", *atoms, "ENDMDL\n", "MODEL        2\n", *second, "ENDMDL\n", "END\n"]
        molecule, told = build(tmp_path, models)
        assert told["models"] == "2 in the file; the first is taken"
        np.testing.assert_allclose(molecule.positions, build(tmp_path, whole)[0].positions)

    def test_an_mmcif_file_is_the_same_molecule(self, tmp_path: Path, whole: list[str]) -> None:
        topology = peptide(*SEQUENCE)
        x = peptide_structure(topology)
        stream = io.StringIO()
        app.PDBxFile.writeFile(topology, 10 * x, stream)
        path = tmp_path / "x.cif"
        path.write_text(stream.getvalue())
        molecule = FromStructure(path, ("amber.xml",)).build(Told())
        np.testing.assert_allclose(molecule.positions, x, atol=1e-4)
        assert molecule.system.getNumParticles() == len(x)
        for content, said in (("data_x\n", "has no atoms"), (stream.getvalue()[:2500], "cut off")):
            path.write_text(content)
            with pytest.raises(SystemDefinitionError, match=said):
                FromStructure(path, ("amber.xml",)).build(Told())

    def test_gaps_and_locations_in_mmcif(self, tmp_path: Path) -> None:
        stream = io.StringIO()
        topology = peptide(*SEQUENCE)
        app.PDBxFile.writeFile(topology, 10 * peptide_structure(topology), stream)
        lines = stream.getvalue().splitlines(keepends=True)
        path = tmp_path / "x.cif"
        path.write_text("".join(line for line in lines if " LEU " not in line))
        with pytest.raises(SystemDefinitionError, match="1 residue between ALA 2 of chain A and SER 4"):
            FromStructure(path, ("amber.xml",)).build(Told())
        index = next(k for k, line in enumerate(lines) if " CB " in line and " LEU " in line)
        columns = [line.split(".")[1].strip() for line in lines if line.startswith("_atom_site.")]

        def located(location: str, occupancy: float) -> str:
            fields = dict(zip(columns, lines[index].split(), strict=True))
            fields |= {"label_alt_id": location, "occupancy": str(occupancy)}
            return " ".join(fields.values()) + "\n"

        for occupancies, taken in (((0.6, 0.4), True), ((0.4, 0.6), False)):
            both = [located(name, value) for name, value in zip("AB", occupancies, strict=True)]
            path.write_text("".join([*lines[:index], *both, *lines[index + 1 :]]))
            told = Told()
            if taken:
                FromStructure(path, ("amber.xml",)).build(told)
                assert "LEU 3 of chain A: location A" in told["alternate locations"]
            else:
                with pytest.raises(SystemDefinitionError, match="LEU 3 of chain A has alternate locations"):
                    FromStructure(path, ("amber.xml",)).build(told)


class TestAtoms:
    def test_missing_hydrogens(self, tmp_path: Path, whole: list[str]) -> None:
        message = refusal(tmp_path, without(whole, is_hydrogen))
        assert "ALA 2 of chain A lacks H, HA, HB1, HB2, HB3" in message
        assert message.endswith("add them with --add-hydrogens")

    def test_hydrogens_are_added_the_same_each_time(self, tmp_path: Path, whole: list[str]) -> None:
        bare = without(whole, is_hydrogen)
        (first, told), (second, _) = (build(tmp_path, bare, add_hydrogens=True) for _ in range(2))
        complete = build(tmp_path, whole)[0]
        assert first.topology.getNumAtoms() == complete.topology.getNumAtoms()
        assert told["hydrogens added"] == f"{sum(map(is_hydrogen, whole))}, for pH 7"
        assert (first.positions == second.positions).all()

    def test_the_form_of_a_residue_follows_the_ph(self, tmp_path: Path) -> None:
        bare = without(pdb_lines("ASP"), is_hydrogen)
        names = {}
        for ph in (2.0, 7.0):
            told = Told()
            path = write_pdb(tmp_path / "x.pdb", bare)
            source = FromStructure(path, ("amber14/protein.ff14SB.xml",), add_hydrogens=True, ph=ph)
            molecule = source.build(told)
            names[ph] = {atom.name for atom in molecule.topology.atoms()}
            assert ("ASH" in told["hydrogens added"]) == (ph == 2.0)
        assert names[2.0] - names[7.0] == {"HD2"}
        assert "must be from 0 to 14" in refusal(tmp_path, bare, add_hydrogens=True, ph=20.0)

    def test_missing_heavy_atoms(self, tmp_path: Path, whole: list[str]) -> None:
        damaged = without(whole, lambda line: atom_name(line) == "OG" or is_hydrogen(line))
        message = refusal(tmp_path, damaged, add_hydrogens=True)
        assert "SER 4 of chain A lacks OG" in message
        assert "--add-heavy-atoms" in message

    def test_heavy_atoms_are_built(self, tmp_path: Path, whole: list[str]) -> None:
        pytest.importorskip("pdbfixer")
        damaged = without(whole, lambda line: atom_name(line) == "OG" or is_hydrogen(line))
        molecule, told = build(tmp_path, damaged, add_heavy_atoms=True, add_hydrogens=True)
        assert told["heavy atoms built"] == "SER 4 of chain A (OG)"
        assert molecule.topology.getNumAtoms() == sum(map(is_atom, whole))

    def test_pdbfixer_is_asked_for(
        self, tmp_path: Path, whole: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pdbfixer", None)
        assert "pip install pdbfixer" in refusal(tmp_path, whole, add_heavy_atoms=True)

    def test_an_end_without_its_oxygen(self, tmp_path: Path, whole: list[str]) -> None:
        uncapped = without(whole, lambda line: residue_name(line) in ("ACE", "NME"))
        uncapped = [line for line in uncapped if not line.startswith("CONECT")]
        message = refusal(tmp_path, uncapped)
        assert "SER 4 of chain A lacks OXT" in message
        assert "ALA" not in message  # it lacks nothing but hydrogens

    def test_residues_without_template(self, tmp_path: Path, whole: list[str]) -> None:
        renamed = [line.replace("SER", "SEP") for line in whole]
        message = refusal(tmp_path, renamed)
        assert "no template for SEP 4 of chain A (nearest template: SER)" in message

    def test_the_likelier_location_is_taken_and_told(self, tmp_path: Path, whole: list[str]) -> None:
        index = atom_line(whole, "CB", "LEU")
        x = float(whole[index][30:38])
        both = [
            f"{whole[index][:16]}{location}{whole[index][17:30]}{x + shift:8.3f}{whole[index][38:54]}"
            f"{occupancy:6.2f}{whole[index][60:]}"
            for location, shift, occupancy in (("A", 0.0, 0.4), ("B", 0.2, 0.6))
        ]
        molecule, told = build(tmp_path, [*whole[:index], *both, *whole[index + 1 :]])
        expected = "taken in LEU 3 of chain A: location B (occupancy 0.60; not A 0.40)"
        assert told["alternate locations"] == expected
        atom = next(a for a in molecule.topology.atoms() if (a.name, a.residue.name) == ("CB", "LEU"))
        assert molecule.positions[atom.index, 0] == pytest.approx((x + 0.2) / 10)

    def test_duplicate_atoms(self, tmp_path: Path, whole: list[str]) -> None:
        index = atom_line(whole, "CB", "LEU")
        message = refusal(tmp_path, [*whole[: index + 1], *whole[index:]])
        assert f"CB of LEU 3 of chain A (the first on lines {index + 1} and {index + 2})" in message

    def test_bonds_of_length_zero(self, tmp_path: Path, whole: list[str]) -> None:
        index, onto = atom_line(whole, "CB", "LEU"), atom_line(whole, "CA", "LEU")
        whole[index] = whole[index][:30] + whole[onto][30:54] + whole[index][54:]
        message = refusal(tmp_path, whole)
        assert "CA of LEU 3 of chain A and CB of LEU 3 of chain A" in message
        whole[index] = whole[index][:30] + f"{float(whole[onto][30:38]) + 0.3:8.3f}" + whole[index][38:]
        assert "the bond of CA of LEU 3 of chain A with CB of LEU 3 of chain A is 0.30 Å" in refusal(
            tmp_path, whole
        )

    def test_coordinates_in_nanometres(self, tmp_path: Path, whole: list[str]) -> None:
        small = [
            line[:30] + "".join(f"{float(line[k : k + 8]) / 10:8.3f}" for k in (30, 38, 46)) + line[54:]
            if is_atom(line)
            else line
            for line in whole
        ]
        assert "as if coordinates were in another unit" in refusal(tmp_path, small)


class TestChains:
    def test_a_break_without_seqres(self, tmp_path: Path, whole: list[str]) -> None:
        message = refusal(tmp_path, without(whole, lambda line: residue_name(line) == "LEU"))
        assert "the chain is broken between ALA 2 of chain A and SER 4 of chain A" in message

    def test_residues_that_seqres_names(self, tmp_path: Path, whole: list[str]) -> None:
        broken = [SEQRES, *without(whole, lambda line: residue_name(line) == "LEU")]
        message = refusal(tmp_path, broken)
        assert "LEU between ALA 2 of chain A and SER 4 of chain A" in message

    def test_they_are_built(self, tmp_path: Path, whole: list[str]) -> None:
        pytest.importorskip("pdbfixer")
        broken = [SEQRES, *without(whole, lambda line: residue_name(line) == "LEU")]
        molecule, told = build(tmp_path, broken, add_heavy_atoms=True, add_hydrogens=True)
        assert told["residues built"] == "LEU after ALA 2 of chain A"
        names = [residue.name for residue in molecule.topology.residues()]
        assert names == ["ACE", *SEQUENCE, "NME"]

    def test_missing_ends_are_told(self, tmp_path: Path, whole: list[str]) -> None:
        _, told = build(tmp_path, ["SEQRES   1 A    6  GLY ACE ALA LEU SER NME\n", *whole])
        assert told["sequence"].endswith("left out: GLY before ACE 1 of chain A")

    def test_a_gap_in_a_chain_that_is_left_out_does_no_harm(self, tmp_path: Path, whole: list[str]) -> None:
        atoms = [line for line in whole if is_atom(line)]
        broken = in_chain(without(atoms, lambda line: residue_name(line) == "LEU"), "B", 20.0)
        two = [SEQRES, SEQRES.replace(" A ", " B "), *atoms, "TER\n", *broken, "END\n"]
        assert "LEU between ALA 2 of chain B" in refusal(tmp_path, two)
        assert build(tmp_path, two, keep_only=("A",))[0].topology.getNumAtoms() == len(atoms)

    def test_water_and_ions(self, tmp_path: Path, whole: list[str]) -> None:
        solvated = [*whole[:-1], WATER, SODIUM, "END\n"]
        message = refusal(tmp_path, solvated)
        assert "holds 1 water and 1 ion or single atoms (NA 1, the first is NA 102 of chain B)" in message
        assert "--remove-solvent" in message
        molecule, told = build(tmp_path, solvated, remove_solvent=True)
        assert molecule.topology.getNumAtoms() == sum(map(is_atom, whole))
        assert told["left out"].startswith("1 water")

    def test_several_chains(self, tmp_path: Path, whole: list[str]) -> None:
        atoms = [line for line in whole if is_atom(line)]
        two = [*atoms, "TER\n", *in_chain(atoms, "B", 20.0), "END\n"]
        message = refusal(tmp_path, two)
        assert f"ACE 1 of chain B to NME 5 of chain B ({len(atoms)} atoms)" in message
        assert "--keep-only" in message
        molecule, _ = build(tmp_path, two, keep_only=("B",))
        assert {chain.id for chain in molecule.topology.chains()} == {"B"}
        assert molecule.topology.getNumAtoms() == len(atoms)
        assert "has no chain C; its chains are A, B" in refusal(tmp_path, two, keep_only=("C",))

    def test_a_cell_that_stands_for_none_is_not_mentioned(self, tmp_path: Path, whole: list[str]) -> None:
        for edge, known in ((1.0, False), (40.0, True)):
            cell = f"CRYST1{edge:9.3f}{edge:9.3f}{edge:9.3f}  90.00  90.00  90.00 P 1           1\n"
            molecule, told = build(tmp_path, [cell, *whole])
            assert ("unit cell" in told) == known
            assert molecule.topology.getPeriodicBoxVectors() is None
            assert not molecule.system.usesPeriodicBoundaryConditions()


class TestForceFields:
    def test_unknown_files_have_near_names(self, tmp_path: Path, whole: list[str]) -> None:
        path = write_pdb(tmp_path / "x.pdb", whole)
        for name, near in (("amber14all.xml", "amber14-all.xml"), ("ff14SB", "amber14/protein.ff14SB.xml")):
            with pytest.raises(ConfigError, match=f"{name}: there is no such file.*did you mean {near}"):
                FromStructure(path, (name,)).build(Told())
        for names, said in (((), "name a force field"), ((str(tmp_path),), "is a directory")):
            with pytest.raises(ConfigError, match=said):
                FromStructure(path, names).build(Told())

    def test_a_file_that_is_no_force_field(self, tmp_path: Path, whole: list[str]) -> None:
        (tmp_path / "mine.xml").write_text("<ForceField><Residues>")
        source = FromStructure(write_pdb(tmp_path / "x.pdb", whole), (str(tmp_path / "mine.xml"),))
        with pytest.raises(ConfigError, match=r"mine\.xml: cannot be read"):
            source.build(Told())

    @pytest.mark.parametrize(
        ("files", "implicit", "said"),
        [
            (("amber99sbildn.xml", "amber99_obc.xml"), "obc2", "has an implicit solvent already"),
            (("amoeba2018.xml",), "obc2", "does not go with amoeba2018.xml, which is polarisable"),
            (("amber96.xml",), "obc3", "must be one of vacuum, hct"),
        ],
    )
    def test_solvents_that_do_not_go_with_it(
        self, tmp_path: Path, files: tuple[str, ...], implicit: str, said: str
    ) -> None:
        path = write_pdb(tmp_path / "x.pdb", pdb_lines("ALA"))
        with pytest.raises(ConfigError, match=said):
            FromStructure(path, files, implicit).build(Told())
