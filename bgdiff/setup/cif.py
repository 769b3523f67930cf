"""What the rows of an mmCIF file say: the same as :mod:`bgdiff.setup.records` for PDB files."""

import io
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bgdiff.errors import SystemDefinitionError
from bgdiff.setup.molecule import listed
from bgdiff.setup.records import AtomRecord, Records, check_unique, read_text

__all__ = ["check_first_location", "gaps", "read_cif_records"]

_UNSAID = (".", "?")


def read_cif_records(path: Path) -> tuple[Records, list[tuple[str, str]]]:
    """Read the atoms of the first model of an mmCIF file.

    Returns:
        Its records, and the chains that lack residues inside with how many and where, from their place in the
        sequence (label_seq_id).

    Raises:
        SystemDefinitionError: the file is missing, empty or cut off, or an atom is there twice.
    """
    from openmm.app.internal.pdbx.reader.PdbxReader import PdbxReader

    content = read_text(path)
    blocks: list[Any] = []
    try:
        PdbxReader(io.StringIO(content)).read(blocks)
        table = blocks[0].getObj("atom_site") if blocks else None
        if table is None or not table.getRowList():
            raise SystemDefinitionError(
                f"{path}: has no atoms: there is no atom_site table; is it an mmCIF file?"
            )
        rows = [_Row(table.getAttributeIndex, row) for row in table.getRowList()]
        models = list(dict.fromkeys(row("pdbx_PDB_model_num") for row in rows))
        first = [row for row in rows if row("pdbx_PDB_model_num") == models[0]]
        chains = [{row(f"{kind}_asym_id") for row in rows} for kind in ("auth", "label")]
        # OpenMM calls chains by whichever tells more of them apart
        kind = "label" if len(chains[1]) > len(chains[0]) else "auth"
        atoms = [_atom(row, index, kind) for index, row in enumerate(first)]
    except SystemDefinitionError:
        raise
    except Exception as error:  # the reader raises whatever goes wrong inside it
        raise SystemDefinitionError(f"{path}: is cut off or no mmCIF file ({error})") from error
    check_unique(path, atoms)
    return Records([content], atoms, len(models)), gaps(first, atoms)


def check_first_location(path: Path, records: Records) -> list[str]:
    """Where atoms have several locations: OpenMM's reader takes the first one, which must be the likeliest.

    Returns:
        A line for every residue where there was a choice.

    Raises:
        SystemDefinitionError: another location than the first has a higher occupancy.
    """
    by_residue: dict[tuple[int, str, str], list[AtomRecord]] = defaultdict(list)
    for atom in records.atoms:
        if atom.location:
            by_residue[atom.residue].append(atom)
    told = []
    for atoms in by_residue.values():
        means = {
            location: sum(values) / len(values)
            for location in dict.fromkeys(atom.location for atom in atoms)
            if (values := [atom.occupancy for atom in atoms if atom.location == location])
        }
        first = atoms[0].location
        best = max(means, key=lambda location: means[location])
        if means[best] > means[first] or len({atom.residue_name for atom in atoms}) > 1:
            raise SystemDefinitionError(
                f"{path}: {atoms[0].residue_label} has alternate locations {', '.join(means)}, and the "
                "first is not the one to take; leave only one in the file, or save it in PDB format, where "
                "the location with the highest occupancy is taken"
            )
        if len(means) > 1:
            others = listed(f"{name} {mean:.2f}" for name, mean in means.items() if name != first)
            told.append(
                f"{atoms[0].residue_label}: location {first} (occupancy {means[first]:.2f}; not {others})"
            )
    return told


def gaps(rows: "list[_Row]", atoms: list[AtomRecord]) -> list[tuple[str, str]]:
    """Where the number in the sequence jumps inside a chain: the chain, and how many are missing where."""
    found = []
    last: dict[str, tuple[int, AtomRecord]] = {}
    for row, atom in zip(rows, atoms, strict=True):
        number, chain = row("label_seq_id"), row("label_asym_id")
        if not number.lstrip("-").isdigit():
            continue
        if chain in last and int(number) > last[chain][0] + 1:
            missing = int(number) - last[chain][0] - 1
            before = last[chain][1].residue_label
            count = f"{missing} residue{'s' if missing > 1 else ''}"
            found.append((atom.chain, f"{count} between {before} and {atom.residue_label}"))
        last[chain] = (int(number), atom)
    return found


class _Row:
    """One row of atom_site, by the names of its columns; empty where there is no such column or value."""

    def __init__(self, column: Callable[[str], int], values: list[str]) -> None:
        self._column, self._values = column, values

    def __call__(self, *names: str) -> str:
        for name in names:
            if (index := self._column(name)) != -1:
                return "" if self._values[index] in _UNSAID else self._values[index]
        return ""


def _atom(row: _Row, index: int, kind: str) -> AtomRecord:
    return AtomRecord(
        name=row("auth_atom_id", "label_atom_id"),
        location=row("label_alt_id"),
        residue_name=row("auth_comp_id", "label_comp_id"),
        chain=row(f"{kind}_asym_id", "label_asym_id"),
        number=row("auth_seq_id", "label_seq_id") + row("pdbx_PDB_ins_code"),
        occupancy=float(row("occupancy") or 1.0),
        line=index,
        segment=0,
    )
