"""The report of a run: ``figures/*.png`` and one self-contained ``report.html``."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bgdiff.analysis.check_section import check_section
from bgdiff.analysis.embedding import embedded_picture
from bgdiff.analysis.figures import RunFigure, draw_figures
from bgdiff.analysis.free_energy_report import free_energy_figures, free_energy_section, read_if_there
from bgdiff.analysis.profiles import ExactProfile
from bgdiff.analysis.provenance import commands, provenance, settings
from bgdiff.analysis.report_rows import (
    basin_row,
    cards,
    diagnostics,
    difference_row,
    missing,
    reference_methods,
)
from bgdiff.analysis.report_view import embedded_view
from bgdiff.analysis.results import Results
from bgdiff.analysis.run_files import read_run
from bgdiff.analysis.run_structures import read_structures
from bgdiff.analysis.rung_record import read_rungs
from bgdiff.analysis.structure_figures import structure_figures
from bgdiff.analysis.style import DPI, WIDTH, save_figure
from bgdiff.analysis.summary import MARKS
from bgdiff.analysis.text import count, kt_in_kj_per_mol, unbroken
from bgdiff.analysis.verdict import advice, findings
from bgdiff.io import make_directory, write_text

__all__ = ["build_report"]


def build_report(
    run_dir: Path | str,
    exact: Mapping[str, ExactProfile] | None = None,
    formats: Sequence[str] = (),
) -> Path:
    """Draw the figures of a run and write its ``report.html``.

    The report needs no network and no other file. It depends on the run's files alone, and on the installed
    nglview, whose viewer it embeds; building it again gives the same bytes.

    Args:
        run_dir: directory with ``results.json`` and ``proposal.npz``, and, for the full report,
            ``data.npz``, ``held_out.npz``, ``samples.dcd`` with ``topology.pdb``, ``train/history.jsonl``,
            ``train/generator.safetensors``, ``run.json`` and, if it was asked for, ``free_energies.json``.
        exact: exact free-energy curves by observable, where they are known.
        formats: further formats of the figures beside ``png``, such as ``pdf`` or ``svg`` for print.

    Returns:
        The path of ``report.html``.

    Raises:
        CheckpointError: a file is missing or damaged.
        StorageError: a file cannot be written.
    """
    directory = Path(run_dir)
    run = read_run(directory)
    folder = make_directory(directory / "figures")
    results, content = run.results, read_if_there(directory)
    structures = read_structures(directory, run)

    def saved(figures: Iterable[RunFigure]) -> Iterator[dict[str, Any]]:
        for drawn in figures:
            for suffix in ("png", *formats):
                save_figure(drawn.figure, folder / f"{drawn.name}.{suffix}")
            yield _embed(drawn, folder / f"{drawn.name}.png")

    figures: dict[str, list[dict[str, Any]]] = {}
    drawn = [*([] if structures is None else structure_figures(run, structures))]
    for figure in saved([*drawn, *draw_figures(run, exact, read_rungs(directory, results))]):
        figures.setdefault(figure["section"], []).append(figure)
    free_energies = None
    if content is not None:
        free_energies = free_energy_section(content) | {"figures": list(saved(free_energy_figures(content)))}
    judged = sorted(findings(results), key=lambda finding: -finding.level)
    checked = check_section(results)
    environment = Environment(
        loader=PackageLoader("bgdiff.analysis"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["unbroken"] = unbroken
    page = environment.get_template("report.html").render(
        results=results,
        level=max(finding.level for finding in judged),
        findings=judged,
        advice=advice(judged),
        marks=MARKS,
        cards=list(cards(results, judged)),
        differences=[difference_row(difference) for difference in results.free_energy_differences],
        reference_methods=reference_methods(results),
        proposed=any(basin.proposal is not None for basin in results.basins) or not results.n_chains,
        basins=[basin_row(results, basin) for basin in results.basins],
        figures=figures,
        free_energies=free_energies,
        structures=structures,
        contents=list(_contents(results, figures, free_energies is not None, bool(checked))),
        view=embedded_view(run, structures, environment),
        checks=checked,
        missing=missing(bool(run.history), bool(run.data)),
        diagnostics=list(diagnostics(results)),
        provenance=list(provenance(run)),
        commands=commands(run, directory, free_energies=content is not None),
        settings=list(settings(run.manifest)),
        kj=None if results.temperature is None else kt_in_kj_per_mol(results.temperature),
        count=count,
    )
    path = directory / "report.html"
    write_text(path, page)
    return path


def _contents(
    results: Results, figures: Mapping[str, Any], free_energies: bool, checked: bool
) -> Iterator[tuple[str, str]]:
    """Anchors of the sections that the report has, and what they are called."""
    yield "verdict", "Verdict"
    for section, name, there in (
        ("differences", "Free-energy differences", bool(results.free_energy_differences)),
        ("populations", "Populations", bool(results.basins)),
        ("structures", "Structures", "structures" in figures),
        ("surfaces", "Surfaces", "surfaces" in figures),
        ("energies", "Energies", True),
        ("weights", "Chains" if results.n_chains else "Weights", True),
        ("ladder", "Ladder", "ladder" in figures),
        ("estimators", "Estimators", free_energies),
        ("training", "Training", "training" in figures),
        ("checks", "Checks", checked),
        ("provenance", "Reproduce", True),
    ):
        if there:
            yield section, name


def _embed(drawn: RunFigure, path: Path) -> dict[str, Any]:
    width, height = (round(float(inches) * DPI) for inches in drawn.figure.get_size_inches())
    return {
        "section": drawn.section,
        "title": drawn.title,
        "caption": drawn.caption,
        "alt": drawn.alt,
        "file": f"figures/{path.name}",
        "source": embedded_picture(path),
        "width": width,
        "height": height,
        "narrow": drawn.figure.get_size_inches()[0] < 0.8 * WIDTH,
        "small": drawn.figure.get_size_inches()[0] < 0.45 * WIDTH,
    }
