"""What the lines of a PDB file say before anything is made of them; faults are told by line and atom.

OpenMM's reader takes the first of alternate locations, skips an atom that is there twice and ignores SEQRES.
Here alternate locations are chosen by occupancy, and told.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from pathlib import Path

from bgdiff.errors import SystemDefinitionError
from bgdiff.setup.molecule import listed

__all__ = [
    "AtomRecord",
    "Records",
    "check_unique",
    "choose_locations",
    "missing_residues",
    "read_records",
    "read_text",
]


@dataclass(frozen=True)
class AtomRecord:
    """An atom of the first model."""

    name: str
    location: str
    """Alternate location indicator; empty if there is one location"""
    residue_name: str
    chain: str
    number: str
    """Of the residue, with its insertion code"""
    occupancy: float
    line: int
    """Counts from 0"""
    segment: int
    """How many TER records come before; chains may use an identifier again"""

    @property
    def residue(self) -> tuple[int, str, str]:
        """What tells residues apart."""
        return self.segment, self.chain, self.number

    @property
    def residue_label(self) -> str:
        return f"{self.residue_name} {self.number}" + (f" of chain {self.chain}" if self.chain else "")


@dataclass(frozen=True)
class Records:
    """The lines of a PDB file, and what its records say."""

    lines: list[str]
    atoms: list[AtomRecord]
    models: int
    sequences: dict[str, list[str]] = field(default_factory=dict)
    """Residue names by chain, as SEQRES lists them"""

    @property
    def text(self) -> str:
        return "".join(self.lines)


def read_text(path: Path) -> str:
    """The content of a text file.

    Raises:
        SystemDefinitionError: it is missing, a directory, empty, or no text.
    """
    if path.is_dir():
        raise SystemDefinitionError(f"{path}: is a directory; name the file in it")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SystemDefinitionError(f"{path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise SystemDefinitionError(
            f"{path}: is not a text file; a compressed one must be unpacked"
        ) from error
    except OSError as error:
        raise SystemDefinitionError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not text.strip():
        raise SystemDefinitionError(f"{path}: is empty")
    return text


def read_records(path: Path) -> Records:
    """Read the lines of a PDB file; only the first model's atoms are kept.

    Raises:
        SystemDefinitionError: the file is missing, empty or cut off, or an atom is there twice.
    """
    lines, atoms = [], []
    sequences: dict[str, list[str]] = defaultdict(list)
    models = segment = 0
    finished = False  # behind the first model
    for index, line in enumerate(read_text(path).splitlines(keepends=True)):
        kind = line[:6].rstrip()
        if kind == "MODEL":
            models += 1
        elif kind == "ENDMDL":
            finished = True
        elif kind == "TER":
            segment += 1
        elif kind == "SEQRES":
            sequences[line[11:12].strip()] += line[19:70].split()
        if finished and kind in ("MODEL", "ENDMDL", "ATOM", "HETATM", "ANISOU", "TER"):
            lines.append("")  # line numbers stay those of the file
            continue
        if kind in ("ATOM", "HETATM"):
            atoms.append(_atom(path, line, index, segment))
        lines.append(line)
    if not atoms:
        raise SystemDefinitionError(
            f"{path}: has no atoms: there is no ATOM or HETATM record; is it a PDB file?"
        )
    check_unique(path, atoms)
    return Records(lines, atoms, max(models, 1), dict(sequences))


def choose_locations(records: Records) -> tuple[Records, list[str]]:
    """Keep one location of every residue that has several: the one with the highest mean occupancy.

    Among equals it is the one that comes first.

    Returns:
        The records with one location of each atom, and a line for every residue where there was a choice.
    """
    by_residue: dict[tuple[int, str, str], list[AtomRecord]] = defaultdict(list)
    for atom in records.atoms:
        by_residue[atom.residue].append(atom)
    lines, dropped, told = list(records.lines), set(), []
    for atoms in by_residue.values():
        occupancies: dict[str, list[float]] = defaultdict(list)
        for atom in atoms:
            if atom.location:
                occupancies[atom.location].append(atom.occupancy)
        for atom in atoms:
            if atom.location:
                lines[atom.line] = lines[atom.line][:16] + " " + lines[atom.line][17:]
        if len(occupancies) < 2:
            continue
        means = {location: sum(values) / len(values) for location, values in occupancies.items()}
        chosen = max(means, key=lambda location: means[location])
        kept = next(atom for atom in atoms if atom.location == chosen)
        seen = {atom.name for atom in atoms if atom.location in ("", chosen)}
        for atom in atoms:
            # an atom that only another location names belongs to the residue, unless that is another residue
            alone = atom.name not in seen and atom.residue_name == kept.residue_name
            if atom.location in ("", chosen):
                continue
            if alone:
                seen.add(atom.name)
                continue
            dropped.add(atom.line)
        others = listed(f"{name} {mean:.2f}" for name, mean in means.items() if name != chosen)
        told.append(f"{kept.residue_label}: location {chosen} (occupancy {means[chosen]:.2f}; not {others})")
    for line in dropped:
        lines[line] = ""
    atoms = [replace(atom, location="") for atom in records.atoms if atom.line not in dropped]
    return replace(records, lines=lines, atoms=atoms), told


def missing_residues(
    records: Records, ignored: Iterable[str] = ()
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Residues that SEQRES names and no atom belongs to, as (chain, what is missing and where).

    Args:
        ignored: names of residues that are no part of chains, such as water.

    Returns:
        Gaps inside chains, and those at chain ends.
    """
    inside, ends = [], []
    leave_out = set(ignored)
    for chain, wanted in records.sequences.items():
        present: dict[tuple[int, str, str], AtomRecord] = {}
        for atom in records.atoms:
            if atom.chain == chain and atom.residue_name not in leave_out:
                present.setdefault(atom.residue, atom)
        if not present:
            continue
        found = list(present.values())
        names = [atom.residue_name for atom in found]
        matcher = SequenceMatcher(a=wanted, b=names, autojunk=False)
        for tag, first, last, at, _ in matcher.get_opcodes():
            if tag != "delete":
                continue
            missing = listed(wanted[first:last], 8)
            if at == 0:
                ends.append((chain, f"{missing} before {found[0].residue_label}"))
            elif at == len(found):
                ends.append((chain, f"{missing} after {found[-1].residue_label}"))
            else:
                before, after = found[at - 1].residue_label, found[at].residue_label
                inside.append((chain, f"{missing} between {before} and {after}"))
    return inside, ends


def _atom(path: Path, line: str, index: int, segment: int) -> AtomRecord:
    text = line.rstrip("\n")
    try:
        coordinates = [float(text[start : start + 8]) for start in (30, 38, 46)]
        number = str(int(text[22:26]))
        if len(text) < 54:
            raise ValueError
    except ValueError as error:
        raise SystemDefinitionError(
            f"{path}: line {index + 1} is cut off or damaged: {text.strip()!r} has no residue number or no "
            "three coordinates in the columns of the PDB format; get the file again"
        ) from error
    if not all(abs(value) < 1e5 for value in coordinates):
        raise SystemDefinitionError(
            f"{path}: line {index + 1} has a coordinate that is no number: {text.strip()!r}"
        )
    try:
        occupancy = float(text[54:60])
    except ValueError:  # the column may be empty
        occupancy = 1.0
    return AtomRecord(
        name=text[12:16].strip(),
        location=text[16:17].strip(),
        residue_name=text[17:21].strip(),
        chain=text[21:22].strip(),
        number=number + text[26:27].strip(),
        occupancy=occupancy,
        line=index,
        segment=segment,
    )


def check_unique(path: Path, atoms: Sequence[AtomRecord]) -> None:
    """Refuse atoms that are there more than once.

    Raises:
        SystemDefinitionError: it names them, and where the first one is.
    """
    keys = Counter((atom.residue, atom.residue_name, atom.name, atom.location) for atom in atoms)
    twice = [key for key, count in keys.items() if count > 1]
    if not twice:
        return
    by_key = {(atom.residue, atom.residue_name, atom.name, atom.location): atom for atom in atoms}
    names = listed(f"{by_key[key].name} of {by_key[key].residue_label}" for key in twice)
    lines = [
        atom.line + 1
        for atom in atoms
        if (atom.residue, atom.residue_name, atom.name, atom.location) == twice[0]
    ]
    raise SystemDefinitionError(
        f"{path}: {len(twice)} atom{'s are' if len(twice) > 1 else ' is'} there more than once: {names} "
        f"(the first on lines {' and '.join(map(str, lines))}); remove the copies, or number residues apart"
    )
