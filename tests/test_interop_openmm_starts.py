"""Starting states: the run's samples at the run's weights and energies, in files that OpenMM reads."""

import json
import logging
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from command_line import Call
from molecules import TEMPERATURE
from openmm import app, unit
from twist_run import KT, SMALL, twist_samples

from bgdiff.errors import ConfigError, CorrectionError, DataError, StorageError
from bgdiff.generator import BoltzmannGenerator, Ensemble
from bgdiff.interop.openmm import choose_starts, export_run, export_starts
from bgdiff.run import Run, start_run


@pytest.fixture(scope="module")
def generator(twist_run: Run) -> BoltzmannGenerator:
    return twist_run.generator()


@pytest.mark.parametrize("n", [1, 7, 100])
def test_starts_are_taken_as_often_as_their_weight_says(n: int) -> None:
    log_weight = np.log(np.random.default_rng(n).random(20))
    log_weight[[3, 19]] = -np.inf
    share = np.exp(log_weight) / np.exp(log_weight).sum()
    counts = np.array([np.bincount(choose_starts(log_weight, n, seed=s), minlength=20) for s in range(400)])
    assert (counts.sum(1) == n).all()
    assert (counts >= np.floor(n * share)).all()
    assert (counts <= np.ceil(n * share)).all()
    fraction = n * share - np.floor(n * share)
    error = np.sqrt(np.maximum(fraction * (1 - fraction), 1e-12) / 400)
    assert (np.abs(counts.mean(0) - n * share) < 4 * error + 1e-9).all()


def test_what_cannot_be_chosen() -> None:
    with pytest.raises(CorrectionError, match="weight zero"):
        choose_starts(np.full(3, -np.inf), 2)
    with pytest.raises(ConfigError, match="positive"):
        choose_starts(np.zeros(3), 0)


@pytest.fixture(scope="module")
def exported(twist_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_run(twist_run.path, tmp_path_factory.mktemp("export") / "starts", n=30, seed=5)


def facts(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "starts.json").read_text())
    return content


def test_starting_states_are_what_the_run_says(twist_run: Run, exported: Path) -> None:
    """OpenMM, with nothing but the files, finds the run's energies at the run's positions."""
    found = facts(exported)
    proposal = np.load(twist_run.file("proposal.npz"))
    samples = mdtraj.load(str(twist_run.file("samples.dcd")), top=str(twist_run.file("topology.pdb"))).xyz
    starts = mdtraj.load(str(exported / "starts.dcd"), top=str(exported / "topology.pdb")).xyz
    weights = np.load(twist_run.file("weights.npy"))
    system = openmm.XmlSerializer.deserialize((exported / "system.xml").read_text())
    pdb = app.PDBFile(str(exported / "topology.pdb"))
    one = app.Simulation(pdb.topology, system, openmm.VerletIntegrator(0.001))
    assert found["temperature"] == TEMPERATURE
    assert found["n_samples"] == 400
    assert found["method"] == "is"
    assert len(found["starts"]) == 30
    speeds = []
    for k, start in enumerate(found["starts"]):
        one.loadState(str(exported / start["file"]))
        state = one.context.getState(positions=True, velocities=True, energy=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        np.testing.assert_allclose(positions, samples[start["sample"]], atol=1e-6)
        np.testing.assert_allclose(positions, starts[k], atol=1e-6)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole)
        assert energy / KT == pytest.approx(proposal["energy"][start["sample"]], abs=2e-3)
        assert start["energy_kJ_per_mol"] == pytest.approx(energy, abs=1e-6)
        assert start["weight"] == pytest.approx(weights[start["sample"]])
        speeds.append(state.getKineticEnergy().value_in_unit(unit.kilojoules_per_mole))
    kinetic = np.array(speeds)
    assert abs(kinetic.mean() - 6 * KT) < 4 * np.sqrt(6 / 30) * KT  # 12 degrees of freedom
    assert len(set(speeds)) == 30
    assert found["largest_energy_deviation_kT"] < 2e-3


def test_copies_are_counted_and_told(
    generator: BoltzmannGenerator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A heavy sample is taken several times; chains also hold equal conformations in different rows."""
    x = twist_samples(6, 3)
    x[4] = x[3]
    energy = generator.system.target.energy(torch.as_tensor(x)).numpy()
    log_weight = np.log(np.array([1.0, 1, 1, 1, 1, 5]))
    ensemble = Ensemble(generator.system, x, energy, log_weight)
    with caplog.at_level(logging.WARNING, logger="bgdiff"):
        out = export_starts(ensemble, tmp_path / "starts", n=10, velocities=False)
    assert "10 starting states hold 5 different conformations, one of them 5 times" in caplog.text
    found = facts(out)
    assert found["n_distinct"] == 5
    by_sample: dict[int, list[tuple[int, int]]] = {}
    for start in found["starts"]:
        kind = 3 if start["sample"] == 4 else start["sample"]
        by_sample.setdefault(kind, []).append((start["copy"], start["copies"]))
    assert sorted(by_sample[5]) == [(k, 5) for k in range(1, 6)]
    assert sorted(by_sample[3]) == [(1, 2), (2, 2)]
    assert by_sample[0] == [(1, 1)]
    state = openmm.XmlSerializer.deserialize((out / "states" / "00000.xml").read_text())
    with pytest.raises(openmm.OpenMMException, match="velocities"):
        state.getVelocities()


def test_the_same_seed_gives_the_same_files(twist_run: Run, exported: Path, tmp_path: Path) -> None:
    again = export_run(twist_run, tmp_path / "again", n=30, seed=5)
    other = export_run(twist_run, tmp_path / "other", n=30, seed=6)
    for file in sorted(exported.rglob("*.xml")):
        assert (again / file.relative_to(exported)).read_bytes() == file.read_bytes()
    assert [s["sample"] for s in facts(other)["starts"]] != [s["sample"] for s in facts(exported)["starts"]]


def test_the_script_simulates(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--states", "4", "0", "--ps", "0.02", "--spacing", "0.005", "--platform", "Reference"]
    monkeypatch.setattr(sys, "argv", ["simulate.py", *arguments])
    for _ in range(2):  # the second time nothing is left to do
        runpy.run_path(str(exported / "simulate.py"), run_name="__main__")
    files = sorted((exported / "trajectories").iterdir())
    assert [file.name for file in files] == ["00000.dcd", "00004.dcd"]
    frames = mdtraj.load(str(files[1]), top=str(exported / "topology.pdb"))
    assert len(frames) == 4
    start = mdtraj.load(str(exported / "starts.dcd"), top=str(exported / "topology.pdb"))[4]
    assert 1e-4 < np.abs(frames[0].xyz - start.xyz).max() < 0.05  # nm in 5 fs
    assert len({file.stat().st_mtime_ns for file in files}) == 2


def test_files_that_do_not_belong_together_are_told(
    twist_run: Run, generator: BoltzmannGenerator, tmp_path: Path
) -> None:
    x = twist_samples(3, 3)
    wrong = Ensemble(generator.system, x, np.zeros(3), np.zeros(3))
    with pytest.raises(DataError, match=r"sample \d: .* kT in the run"):
        export_starts(wrong, tmp_path / "starts", n=2)
    assert list(tmp_path.iterdir()) == []  # nothing half done is left
    (tmp_path / "there").mkdir()
    with pytest.raises(StorageError, match="there already"):
        export_run(twist_run, tmp_path / "there")


def test_the_command(twist_run: Run, tmp_path: Path, call: Call) -> None:
    done = call(
        "export", twist_run.path, "--to", "openmm", "--n", 3, "--out", tmp_path / "a", "--no-velocities"
    )
    assert done.code == 0
    assert "wrote 3 starting states" in done.out
    assert not facts(tmp_path / "a")["velocities"]
    again = call("export", twist_run.path, "--n", 3, "--out", tmp_path / "a")
    assert again.code == 2
    assert "there already" in again.said
    toy = start_run("double_well", tmp_path / "toy", overrides=SMALL)
    refused = call("export", toy, "--out", tmp_path / "b")
    assert refused.code == 2
    assert "reduced units" in refused.said
    untrained = start_run(
        twist_run.manifest["system_path"], tmp_path / "new", data=twist_run.manifest["data_paths"]
    )
    assert "no corrected samples yet" in call("export", untrained, "--out", tmp_path / "c").said


@pytest.mark.skipif(not hasattr(openmm, "PythonForce"), reason="PythonForce came with OpenMM 8.5")
def test_the_examples_of_the_guide_run(
    twist_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As printed, one after the other, on a run of a small molecule and with fewer steps."""
    guide = Path(__file__).parent.parent / "docs" / "openmm.md"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "ala").symlink_to(twist_run.path)
    monkeypatch.chdir(tmp_path)
    export_run("runs/ala", "starts", n=8)
    examples = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(examples) == 5
    names: dict[str, Any] = {}
    for example in examples:
        short = re.sub(r"\.step\(\d+\)", ".step(4)", example.replace("range(100)", "range(3)"))
        assert short != example or "export_starts" in example
        exec(short, names)
    assert facts(tmp_path / "more-starts")["n_samples"] == 200
    assert names["moves"].n_moves == 3
    assert np.isfinite(names["energy"].value_in_unit(unit.kilojoules_per_mole))
