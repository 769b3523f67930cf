"""PDB files of a small peptide, whole or damaged on purpose, and what is told of them."""

import io
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from openmm import app

from tests.peptides import peptide, peptide_structure

Lines = list[str]


class Told(dict[str, str]):
    """What was told of each check, by its name; to be given as ``tell``."""

    def __call__(self, what: str, found: str) -> None:
        self[what] = found


@cache
def _text(*residues: str) -> str:
    topology = peptide(*residues)
    stream = io.StringIO()
    app.PDBFile.writeFile(topology, 10 * peptide_structure(topology), stream)
    return stream.getvalue()


def pdb_lines(*residues: str) -> Lines:
    """Lines of ACE-residues-NME, relaxed, numbered from 1 in chain A."""
    return _text(*residues).splitlines(keepends=True)


def is_atom(line: str) -> bool:
    return line.startswith(("ATOM", "HETATM"))


def atom_name(line: str) -> str:
    return line[12:16].strip()


def residue_name(line: str) -> str:
    return line[17:20].strip()


def is_hydrogen(line: str) -> bool:
    return line[76:78].strip() == "H"


def without(lines: Iterable[str], unwanted: Callable[[str], bool]) -> Lines:
    """Without the atoms that are unwanted."""
    return [line for line in lines if not (is_atom(line) and unwanted(line))]


def atom_line(lines: Lines, name: str, residue: str) -> int:
    """Where the atom of that name in the first residue of that name is."""
    return next(
        index
        for index, line in enumerate(lines)
        if is_atom(line) and (atom_name(line), residue_name(line)) == (name, residue)
    )


def in_chain(lines: Iterable[str], chain: str, shift: float) -> Lines:
    """The atoms in another chain, moved along x by ``shift`` Å."""
    return [
        line[:21] + chain + line[22:30] + f"{float(line[30:38]) + shift:8.3f}" + line[38:]
        for line in lines
        if is_atom(line)
    ]


def write_pdb(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("".join(lines))
    return path


def small_force_field(path: Path, *residues: str, source: str = "amber96.xml") -> Path:
    """The part of a force field of OpenMM that these residues, inside chains or at ends, need."""
    root = ElementTree.parse(Path(app.__file__).parent / "data" / source).getroot()
    templates = root.find("Residues")
    assert templates is not None
    wanted = {f"{end}{name}" for name in residues for end in ("", "N", "C")}
    for template in list(templates):
        if template.get("name") not in wanted:
            templates.remove(template)
    types = {atom.get("type") for atom in templates.iter("Atom")}
    atom_types = root.find("AtomTypes")
    assert atom_types is not None
    classes = {kind.get("class") for kind in atom_types if kind.get("name") in types} | {"", "X"}
    for section in root:
        for item in list(section) if section is not templates else []:
            if item.tag == "Type":
                keep = item.get("name") in types
            else:
                fields = {k: v for k, v in item.attrib.items() if k.startswith(("class", "type"))}
                keep = set(fields.values()) <= classes | types
            if not keep:
                section.remove(item)
    ElementTree.ElementTree(root).write(path)
    return path
