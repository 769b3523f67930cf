"""Benchmarks run in their reduced form and write what docs/benchmarks.md is made from."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_main_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import harness, main_job

    file = tmp_path / "main_job.json"
    monkeypatch.setattr(
        sys, "argv", ["main_job", "--quick", "--json", str(file), "--keep", str(tmp_path / "runs")]
    )
    (tmp_path / "runs").mkdir()
    harness.main("main_job", main_job.measure, "")
    content = json.loads(file.read_text())
    assert content["name"] == "main_job"
    assert content["environment"]["threads"] >= 1
    assert [row["objective"] for row in content["rows"]] == ["score and DiffCLF", "score alone"]
    assert all(row["std error"] > 0 and row["ESS"] > 0 for row in content["rows"])
    # both saw the same frames
    assert content["rows"][0]["dF of training frames"] == content["rows"][1]["dF of training frames"]


@pytest.fixture
def forcefield(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import forcefield

    return forcefield


def test_forcefield_rows(forcefield: Any, tmp_path: Path) -> None:
    """Every rate, ratio and share is positive; in float64 the engine is OpenMM to 1e-9."""
    from benchmarks.molecules import conformations, make_molecule

    molecule = make_molecule("alanine dipeptide OBC1")
    x = conformations(molecule, 8, 24, seed=0)
    assert len({row.tobytes() for row in x}) == 24
    speed = forcefield.speed_rows(molecule, x, (1, 16), seconds=0.2, folder=tmp_path)
    assert len(speed) == 2 * 2 * 2
    for row in speed:
        assert row["conformations / s"] > 0
        assert row["ratio"] == pytest.approx(row["conformations / s"] / row["OpenMM conformations / s"])
        assert 0 < row["fraction of peak"] < 1
    accuracy = forcefield.accuracy_rows(molecule, x)
    errors = {(row["force"], row["dtype"]): row["max error of U / kJ/mol"] for row in accuracy}
    assert len(errors) == 2 * 5
    assert max(error for (_, dtype), error in errors.items() if dtype == "float64") < 1e-9
    assert max(error for (_, dtype), error in errors.items() if dtype == "float32") < 1e-2
    assert max(row["max error of F / kJ/mol/nm"] for row in accuracy if row["dtype"] == "float64") < 1e-9

    console = Console(file=io.StringIO(), width=200)
    for table in forcefield.tables(speed + accuracy):
        console.print(table)
    for text in ("alanine dipeptide OBC1", "B = 16", "float32, 2 threads", "CustomGBForce"):
        assert text in console.file.getvalue()


@pytest.mark.parametrize(("dtype", "counted"), [("float64", 18_783), ("float32", 16_653)])
def test_flops_are_those_that_were_counted(forcefield: Any, dtype: str, counted: int) -> None:
    """``counted``: by the kernel itself, run with numbers that count, for alanine dipeptide in vacuum."""
    from benchmarks.flops import flops_per_conformation
    from bgdiff.systems import load_system
    from bgdiff.targets.forcefield import parse_system

    tables = parse_system(load_system("alanine_dipeptide_vacuum").openmm_system)
    assert flops_per_conformation(tables, dtype) == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("compiler", [True, False])
def test_peak(forcefield: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: bool) -> None:
    from benchmarks import peak

    if not compiler:
        monkeypatch.setattr(peak.shutil, "which", lambda name: None)
    loop, flops, method = peak.peak_job(torch.float64, tmp_path)
    loop()
    assert flops > 0
    assert compiler or "torch matmul" in method
