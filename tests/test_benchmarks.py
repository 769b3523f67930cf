"""Benchmarks run as docs/benchmarks.md says, in their reduced form, and write what it is made from."""

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import assert_standard
from documents import documented_arguments
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_main_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import harness, main_job

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "main_job.json"
    monkeypatch.setattr(
        sys,
        "argv",
        [*documented_arguments("benchmarks.main_job"), "--quick", "--keep", str(tmp_path / "runs")],
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


@pytest.mark.slow
def test_free_energies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every quantity has its row, refused or not, with its reference and what it cost."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import free_energies, harness

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "free_energies.json"
    threads = torch.get_num_threads()
    runs = {name: run for name, run in free_energies._RUNS.items() if name != "many_well_32"}
    monkeypatch.setattr(free_energies, "_RUNS", runs)  # one toy less, for time
    monkeypatch.setattr(
        sys, "argv", [*documented_arguments("benchmarks.free_energies"), "--quick", "--keep", str(tmp_path)]
    )
    try:
        harness.main("free_energies", free_energies.measure, "", free_energies.tables)
    finally:
        torch.set_num_threads(threads)
    rows = {row["quantity"]: row for row in json.loads(file.read_text())["rows"]}
    solvation = next(
        row for name, row in rows.items() if name.startswith("alanine_dipeptide_vacuum: ΔF(alanine")
    )
    assert solvation["reference"] == pytest.approx(-22.43, abs=0.02)
    wells = next(row for name, row in rows.items() if name.startswith("double_well: ΔF"))
    assert wells["reference"] == pytest.approx(2.629382, abs=1e-5)
    for row in rows.values():
        if row.get("value / kT") is not None and row.get("reference") is not None:
            assert row["difference"] == pytest.approx(row["value / kT"] - row["reference"])
        assert row.get("processor minutes", 1) > 0
    assert solvation["processor minutes"] > wells["processor minutes"]
    assert sum("learned normalisers" in name for name in rows) == 3


@pytest.mark.slow
def test_correction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method has its row, with its own cost and with that of training and data; nothing is repeated."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import correction, harness

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "correction.json"
    monkeypatch.setattr(
        sys, "argv", [*documented_arguments("benchmarks.correction"), "--quick", "--keep", str(tmp_path)]
    )
    harness.main("correction", correction.measure, "", correction.tables)
    rows = json.loads(file.read_text())["rows"]
    names = [row["method"] for row in rows]
    assert names[:3] == ["IS", "SMC", "IMH"]
    assert names[3] in ("replica exchange", "replica-exchange"), "so little training may not be enough"
    assert names[4:] == ["MD", "parallel tempering"]
    for row in rows:
        if "failed" in row:
            continue
        assert row["effective samples"] <= row["samples"] <= row["target evaluations"]
        assert row["effective / CPU s"] == pytest.approx(row["effective samples"] / row["CPU s"])
        extra = row.get("training / CPU s", 0) + row.get("data / CPU s", 0)
        assert row["CPU s, all included"] == pytest.approx(row["CPU s"] + extra)
        assert (extra > 0) == (row["method"] not in ("MD", "parallel tempering"))
        assert ("dF / kT" in row) <= (row["effective samples"] > 0)
        assert row["reference / kT"] == pytest.approx(4.77, abs=0.2)
    # two nanoseconds from one start do not see the other basin, and that is what is said
    assert rows[4]["effective samples"] == 0
    assert "dF / kT" not in rows[4]
    again = tmp_path / "again.json"
    monkeypatch.setattr(sys, "argv", ["correction", "--quick", "--json", str(again), "--keep", str(tmp_path)])
    harness.main("correction", correction.measure, "", correction.tables)
    for before, after in zip(rows, json.loads(again.read_text())["rows"], strict=True):
        assert after.get("CPU s") == before.get("CPU s")


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import outcomes

    return outcomes


def double_well_draws(p: float, shape: tuple[int, int], stay: float, seed: int) -> np.ndarray:
    """x of two-state chains ``(T, C)``, at the right with probability p; correlation ``stay`` per step."""
    generator = np.random.default_rng(seed)
    right = generator.random(shape[1]) < p
    draws = np.empty(shape)
    for row in draws:
        fresh = generator.random(shape[1]) < p
        right = np.where(generator.random(shape[1]) < stay, right, fresh)
        row[:] = np.where(right, 1.0, -1.0)
    return draws.reshape(-1)


def test_chains_are_worth_what_their_slowest_quantity_says(outcomes: Any) -> None:
    """Two-state chains with known correlation: (1-ρ)/(1+ρ) of the draws count, and the error follows."""
    from bgdiff.systems import load_system

    system, p, stay = load_system("double_well"), 0.2, 0.8
    scores, sizes, behind = [], [], []
    for seed in range(40):
        x = double_well_draws(p, (2000, 8), stay, seed)
        outcome = outcomes.from_chains("chains", system, {"x": x}, 8, 1, 1.0)
        truth = -math.log(p / (1 - p))
        scores.append((outcome.difference.value - truth) / outcome.difference.std_error)
        sizes.append(outcome.effective)
        behind.append(outcomes.draws_behind(outcome.difference, truth))
        assert outcome.crossed == 1.0
    assert_standard(torch.tensor(scores))
    expected = 16_000 * (1 - stay) / (1 + stay)
    assert np.mean(sizes) == pytest.approx(expected, rel=0.05)
    assert np.mean(behind) == pytest.approx(expected, rel=0.1)
    stuck = np.tile([-1.0, -1.0, 1.0, -1.0], 500)
    outcome = outcomes.from_chains("chains", system, {"x": stuck}, 4, 1, 1.0)
    assert (outcome.effective, outcome.crossed, outcome.difference) == (0.0, 0.0, None)
    assert "no chain" in outcome.slowest


def test_weights_are_worth_kish_by_family(outcomes: Any) -> None:
    from bgdiff.systems import load_system

    system = load_system("double_well")
    x = {"x": np.array([1.0, -1.0, 1.0, -1.0])}
    log_weight = np.log([1.0, 3.0, 1.0, 3.0])
    plain = outcomes.from_weights("IS", system, log_weight, x, 4, 1.0)
    assert plain.effective == pytest.approx(64 / 20)
    assert plain.difference.value == pytest.approx(-math.log(2 / 6))
    family = np.array([0, 0, 1, 1])
    assert outcomes.from_weights("SMC", system, log_weight, x, 4, 1.0, family).effective == pytest.approx(2)
    one_sided = {"x": np.full(4, -1.0)}
    assert outcomes.from_weights("IS", system, log_weight, one_sided, 4, 1.0).difference is None


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


@pytest.mark.slow
def test_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both corrections of a run are in its row, beside what was asked; cost has a row per size."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import clusters, harness

    monkeypatch.chdir(tmp_path)
    file, threads = tmp_path / "clusters.json", torch.get_num_threads()
    arguments = [*documented_arguments("benchmarks.clusters"), "--quick", "--keep", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    harness.main("clusters", clusters.measure, "", clusters.tables)
    assert torch.get_num_threads() == threads
    quality, cost = json.loads(file.read_text())["rows"]
    assert (quality["row"], cost["row"]) == ("dw4", "cost of lj13")
    for method in ("is", "smc"):
        kept = json.loads((tmp_path / "dw4" / f"results-{method}.json").read_text())
        assert kept["method"] == method
        metric = next(one for one in kept["comparison"]["metrics"] if one["name"] == "energy_w2")
        title = {"is": "path", "smc": "SMC"}[method]
        assert quality[f"energy_w2, {title} / floor"] == metric["value"] / metric["floor"]
    assert quality["reached"]["path ESS"] == (quality["path ESS"] >= 0.9)
    assert quality["reached"]["virial z, data"] is True
    assert 0 < quality["path ESS, isotropic steps"] <= 1
    assert quality["training / CPU min"] > 0
    assert cost["particles"] == 13
    for name, value in cost.items():
        assert name == "row" or value > 0, name
    for of in ("training step", "1000 samples, scores alone"):
        assert cost[f"{of}, times its layers' products"] > 1


def test_matrix_products_are_counted_and_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear layer takes one product forward and two backward; of its input the gradient if asked for."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.cluster_cost import growth_exponent
    from benchmarks.matrix_products import bare, flops, matrix_products

    layer, x = torch.nn.Linear(5, 7), torch.randn(11, 5, requires_grad=True)
    forward = matrix_products(lambda: layer(x))
    assert flops(forward) == 2 * 11 * 5 * 7
    both = matrix_products(lambda: layer(x).square().sum().backward())
    assert flops(both) == 3 * flops(forward)
    batched = matrix_products(lambda: torch.randn(3, 2, 4) @ torch.randn(3, 4, 6))
    assert flops(batched) == 2 * 3 * 2 * 4 * 6
    repeated = matrix_products(bare(both))
    assert [one.factors for one in repeated] == [one.factors for one in both]
    particles = [13, 38, 55]
    assert growth_exponent(particles, [0.1 * n**1.7 for n in particles]) == pytest.approx(1.7)


@pytest.mark.slow
def test_own_molecule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From heavy atoms to what the commands quote or refuse; finished commands are not run again."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import harness, own_molecule

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own_molecule.json"
    monkeypatch.setattr(own_molecule, "PEPTIDES", {})
    monkeypatch.setattr(
        sys, "argv", [*documented_arguments("benchmarks.own_molecule"), "--quick", "--keep", str(tmp_path)]
    )
    for _ in range(2):
        harness.main("own_molecule", own_molecule.measure, "", own_molecule.tables)
        (row,) = json.loads(file.read_text())["rows"]
        monkeypatch.setattr(own_molecule, "_command", lambda *_: pytest.fail("was run before"))
    assert row["difference"] == "left"
    assert 0 < row["effective fraction"] < 1
    assert row["processor / min"] > 0
    pdb = (tmp_path / "newcomer/tripeptide.pdb").read_text()
    assert pdb.count("CB  ALA") == 2
    assert not [line for line in pdb.splitlines() if line[76:78].strip() == "H"]
