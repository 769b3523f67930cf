"""One's own molecule: the newcomer's four commands, and peptides with the settings recommended for them.

The newcomer has the heavy atoms of ACE-ALA-ALA-NME in a PDB file, and types what the README says. Parallel
tempering, as a fifth command that nobody needs, tells what the free energy should have been. The peptides
are those that ship with data and references.
"""

import re
import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Row, main
from bgdiff.analysis.results import Results, read_results
from bgdiff.analysis.text import with_error
from bgdiff.cli import app
from bgdiff.console import StageProgress
from bgdiff.io import make_directory, read_json, write_json
from bgdiff.run import run_all, start_run
from bgdiff.systems import load_system

__all__ = ["PEPTIDES", "measure", "tables"]

PEPTIDES: dict[str, str] = {
    "alanine_dipeptide_obc1": "best",
    "tri_alanine": "standard",
    "tetra_alanine": "standard",
}
"""Preset of each."""
_BASIN = "left: phi_1 in [0, 130]"
_QUICK: dict[str, Any] = {
    "network": {"width": 16, "depth": 1},
    "training": {"steps": 20},
    "ladder": {"n_rungs": 10, "n_training_rungs": 12, "moment_samples": 64, "pilot_samples": 50},
    "rounds": {"n_rounds": 0},
    "sampling": {"n_samples": 200, "n_held_out": 50},
    "correction": {"method": "is"},
}


def measure(quick: bool, seed: int, folder: Path, console: Console) -> list[Row]:
    """One row for the newcomer, then one per peptide."""
    progress = StageProgress(console)
    rows = [newcomer(make_directory(folder / "newcomer"), quick, seed, console)]
    for name, preset in list(PEPTIDES.items())[: 1 if quick else None]:
        path = folder / name
        if not (path / "run.json").is_file():
            overrides = _QUICK if quick else None
            start_run(name, path, preset="quick" if quick else preset, seed=seed, overrides=overrides)
        with _clock(path / "clock.json", "run"):
            run_all(path, progress.stage)
        rows.append({"molecule": name, **_outcome(read_results(path / "results.json"), path / "clock.json")})
    return rows


def newcomer(folder: Path, quick: bool, seed: int, console: Console) -> Row:
    """The commands one after the other in a folder; those that were finished there before are left out."""
    write_heavy_atoms(folder / "tripeptide.pdb")
    run = folder / "runs" / f"my_peptide-{'quick' if quick else 'standard'}-{seed}"
    chosen = [f"--set={text}" for text in _as_options(_QUICK)] if quick else []
    commands = {
        "new": (folder / "my_peptide", "new", "my_peptide", "--pdb=tripeptide.pdb",
                "--forcefield=amber14-all.xml", "--implicit=obc2", "--add-hydrogens", f"--basin={_BASIN}"),
        "data generate": (folder / "my_peptide/data/md.json", "data", "generate", "my_peptide"),
        "run": (run / "report.html", "run", "my_peptide", f"--preset={run.name.split('-')[1]}",
                f"--seed={seed}", *chosen),
        "free-energy": (run / "free_energies.json", "free-energy", str(run),
                        *(["--rung-samples=0"] if quick else [])),
    }  # fmt: skip
    if not quick:  # a reference as short as that would find no basin visited
        commands["reference"] = (folder / "reference.json", "reference", "my_peptide", "--out=reference.json")
    for name, (product, *arguments) in commands.items():
        if not product.exists():
            console.print(f"bgdiff {' '.join(arguments)}", highlight=False)
            with _clock(folder / "clock.json", name):
                _command(folder, arguments)
        if name == "new" and quick:
            _shorten(folder / "my_peptide" / "system.yaml")
    results, clock = read_results(run / "results.json"), folder / "clock.json"
    known = {} if quick else read_json(folder / "reference.json")["free_energy_differences"][0]
    quoted = read_json(run / "free_energies.json")["quantities"]
    difference = next(one for one in quoted if one["kind"] == "difference")
    seconds = {name: spent["wall"] for name, spent in read_json(clock).items() if name != "reference"}
    return {
        "molecule": "newcomer's ACE-ALA-ALA-NME",
        **_outcome(results, clock, seconds),
        "quoted / kT": difference["value"],
        "quoted error": difference["std_error"],
        "quoted by": difference["judgement"]["quoted"],
        "reference / kT": known.get("value"),
        "reference error": known.get("std_error"),
        **{f"{name} / min": spent / 60 for name, spent in seconds.items()},
    }


def write_heavy_atoms(path: Path) -> None:
    """The tripeptide as it would come from a databank: no hydrogens."""
    import mdtraj

    system = load_system("tri_alanine")
    structure = mdtraj.load(str(system.path / "topology.pdb"))
    structure.atom_slice(structure.topology.select("not element H")).save_pdb(str(path))


def _outcome(results: Results, clock: Path, seconds: dict[str, float] | None = None) -> Row:
    spent = read_json(clock)
    used = list(spent if seconds is None else seconds)
    first = results.free_energy_differences[0]
    row: Row = {
        "method": results.method,
        "samples": results.n_samples,
        "effective fraction": results.effective_fraction,
        "target evaluations per sample": results.target_evaluations / results.n_samples,
        "wall / min": sum(spent[name]["wall"] for name in used) / 60,
        "processor / min": sum(spent[name]["processor"] for name in used) / 60,
        "difference": first.name,
        "data / kT": first.data_value,
        "dF / kT": first.value,
        "std error": first.std_error,
    }
    if first.reference is not None:
        row |= {"reference / kT": first.reference, "reference error": first.reference_std_error}
    return row


def tables(rows: list[Row]) -> Iterable[Table]:
    """One line per molecule, and the newcomer's minutes."""
    table = Table("", "effective fraction", "ΔF", "data", "corrected", "reference", "wall / min", "CPU / min")
    for row in rows:
        reference = row.get("reference / kT")
        table.add_row(
            str(row["molecule"]),
            f"{row['effective fraction']:.3f} ({row['method']}, {row['samples']})",
            str(row["difference"]),
            "" if row["data / kT"] is None else f"{row['data / kT']:.2f}",
            with_error(row["dF / kT"], row["std error"]),
            "" if reference is None else with_error(reference, row["reference error"]),
            f"{row['wall / min']:.1f}",
            f"{row['processor / min']:.1f}",
        )
    steps = Table("newcomer's command", "wall / min")
    for name in ("new", "data generate", "run", "free-energy"):
        steps.add_row(name, f"{rows[0][f'{name} / min']:.1f}")
    return table, steps


def _command(folder: Path, arguments: list[str]) -> None:
    with chdir(folder):
        try:
            app(arguments, prog_name="bgdiff")
        except SystemExit as end:
            if end.code:
                raise


@contextmanager
def _clock(path: Path, name: str) -> Iterator[None]:
    """Add the wall-clock and processor seconds of the block, child processes included, to those on file."""
    wall, processor = time.monotonic(), _processor()
    try:
        yield
    finally:
        known = read_json(path) if path.is_file() else {}
        before = known.get(name, {"wall": 0.0, "processor": 0.0})
        spent = {"wall": time.monotonic() - wall, "processor": _processor() - processor}
        write_json(path, {**known, name: {key: before[key] + spent[key] for key in spent}})


def _processor() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def _as_options(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _as_options(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={value}"


def _shorten(path: Path) -> None:
    """A few per cent of the simulation."""
    text = path.read_text()
    if "# reduced" not in text:
        text = re.sub(r"length_ns: [\d.]+", "length_ns: 0.003", text)
        path.write_text(f"{text}# reduced\n")


if __name__ == "__main__":
    main("own_molecule", measure, __doc__ or "", tables)
