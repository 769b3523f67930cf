"""``bgdiff new`` on the command line, and that the commands it prints work as printed."""

import shlex
from pathlib import Path

import pytest

from bgdiff.systems import load_system
from tests.command_line import Call, call
from tests.other_programs import write_amber, write_gromacs
from tests.structures import pdb_lines, write_pdb

__all__ = ["call"]


def test_from_a_structure_to_the_next_command(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pdb(Path("in.pdb"), pdb_lines("ALA"))
    done = call("new", "mine", "--pdb", "in.pdb", "--forcefield", "amber96.xml", "--implicit", "vacuum")
    assert done.code == 0
    for check in ("atoms 22 in 3 residues", "evaluated by the batched engine", "torsions phi, psi"):
        assert check in done.said
    printed = [shlex.split(line)[1:] for line in done.out.splitlines() if line.startswith("  bgdiff ")]
    assert printed == [["data", "generate", "mine"], ["run", "mine"], ["free-energy", "runs/mine-standard-0"]]
    text = Path("mine/system.yaml").read_text()
    assert "bgdiff new mine --pdb in.pdb --forcefield amber96.xml --implicit vacuum" in text
    small = text.split("  chains_per_start")[0] + "  chains_per_start: 1\n"
    small += "  length_ns: 0.002\n  spacing_ps: 1\n  equilibration_ps: 0.1\n"
    Path("mine/system.yaml").write_text(small)
    assert call(*printed[0], "--processes", 1).code == 0
    assert len(load_system("mine").load_data().x) == 2 * small.count("- {phi: ")
    again = call("new", "mine", "--pdb", "in.pdb", "--forcefield", "amber96.xml")
    assert again.code == 2
    assert "mine: exists already" in again.said


def test_elsewhere_the_folder_is_printed(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    top, gro = write_gromacs(tmp_path)
    done = call("--quiet", "new", "mine", "--top", top, "--gro", gro, "--out", "my systems/x")
    assert (done.code, done.err) == (0, "")
    assert "bgdiff run 'my systems/x/'" in done.out
    assert load_system("my systems/x/").name == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "say what the molecule is made of: --pdb FILE --forcefield XML, --system XML"),
        (["--pdb", "x.pdb"], "--forcefield is missing"),
        (["--prmtop", "x.prmtop"], "--inpcrd is missing"),
        (["--pdb", "x.pdb", "--gro", "x.gro"], "these do not go together"),
        (
            ["--prmtop", "a", "--inpcrd", "b", "--add-hydrogens"],
            "--add-hydrogens: means nothing together with",
        ),
        (["--pdb", "none.pdb", "--forcefield", "amber96.xml"], "none.pdb: there is no such file"),
    ],
)
def test_options_that_do_not_belong_together(call: Call, options: list[str], said: str) -> None:
    done = call("new", "mine", *options)
    assert done.code == 2
    assert said in done.said


def test_amber_files_in_implicit_water(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prmtop, inpcrd = write_amber(tmp_path)
    done = call(
        "new", "a", "--prmtop", prmtop, "--inpcrd", inpcrd, "--implicit", "gbn2", "--temperature", 280
    )
    assert done.code == 0
    title = load_system("a").spec.title
    assert title == "a (TW), Amber chain.prmtop in implicit water (GBn2), no constraints, 280 K"
