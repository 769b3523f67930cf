"""Corrections that cannot succeed: runs end with the rung, what it means, what to try; nothing is lost."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_run import SMALL
from torch import Tensor

from bgdiff.analysis.results import Results, read_results
from bgdiff.analysis.verdict import Level, verdict
from bgdiff.cli import main
from bgdiff.coordinates import LatentTarget
from bgdiff.errors import CorrectionError
from bgdiff.io import load_tensors, read_json, save_tensors, write_json
from bgdiff.models import EnergyNetwork
from bgdiff.run import run_all, stage_report, stage_reweight, start_run

METHODS = ["is", "smc", "imh", "replica-exchange"]
SETTINGS: dict[str, Any] = SMALL | {
    "sampling": {"n_samples": 600, "chunk": 200, "n_held_out": 60},
    "correction": {"chains": 10, "pilot_particles": 60, "tuning_rounds": 20, "thinning": 1},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = start_run("double_well", tmp_path_factory.mktemp("runs") / "run", seed=4, overrides=SETTINGS)
    run_all(path)
    return path


@pytest.fixture
def path(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


def change_model(path: Path, change: Callable[[Tensor], Tensor]) -> None:
    """Change what the network adds to the Gaussian, and forget the walks of the old one."""
    file = path / "train" / "generator.safetensors"
    tensors, metadata = load_tensors(file)
    for name in ("model.leave.weight", "model.leave.bias"):
        tensors[name] = change(tensors[name])
    save_tensors(file, tensors, metadata)
    shutil.rmtree(path / "samples")


def content(path: Path) -> dict[str, bytes]:
    """Results and samples as they lie on the disk."""
    files = [path / "results.json", path / "proposal.npz", *path.glob("samples*/chunk-*")]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def numbers(results: Results) -> dict[str, Any]:
    return results.model_dump(exclude={"timings", "effective_samples_per_second"})


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_is_not_a_number(path: Path, method: str) -> None:
    """The results of before are kept, and can still be drawn."""
    change_model(path, lambda weight: weight * math.nan)
    before = content(path)
    with pytest.raises(CorrectionError, match=r"rung \d+ \(sigma = .*train (again|longer)"):
        stage_reweight(path, method=method)
    assert content(path) == before
    if method == "is":
        stage_report(path)


@pytest.mark.parametrize("method", METHODS)
def test_rungs_without_overlap(path: Path, method: str) -> None:
    """A model that is steep by thousands of kT: what goes rung by rung stops there, what does not says so."""
    change_model(path, lambda weight: 3e5 * (weight + 1e-3))
    if method in ("smc", "replica-exchange"):
        kept = {name: bytes_ for name, bytes_ in content(path).items() if name == "results.json"}
        with pytest.raises(CorrectionError, match=r"rungs? \d.*(use more|train longer)"):
            stage_reweight(path, method=method)
        assert kept.items() <= content(path).items()
        return
    stage_reweight(path, method=method)
    level, sentences = verdict(read_results(path / "results.json"))
    assert level is Level.UNRELIABLE
    assert any("too few to trust any number; train longer" in sentence for sentence in sentences)


def everywhere(change: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the target's log density v at z by change(v, z), wherever samples are judged by it."""
    value, with_x, with_score = (
        LatentTarget.log_density,
        LatentTarget.log_density_and_x,
        LatentTarget.log_density_and_score,
    )

    def changed_with_x(self: LatentTarget, z: Tensor) -> tuple[Tensor, Tensor]:
        log_density, x = with_x(self, z)
        return change(log_density, z), x

    def changed_with_score(self: LatentTarget, z: Tensor) -> tuple[Tensor, Tensor]:
        log_density, score = with_score(self, z)
        return change(log_density, z), score

    monkeypatch.setattr(LatentTarget, "log_density", lambda self, z: change(value(self, z), z))
    monkeypatch.setattr(LatentTarget, "log_density_and_x", changed_with_x)
    monkeypatch.setattr(LatentTarget, "log_density_and_score", changed_with_score)


@pytest.mark.parametrize("bridge", [0, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_target_without_energies_for_the_samples(
    path: Path, method: str, bridge: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All weights are zero. What was drawn is kept, and is good once the energies are there."""
    if bridge:
        if method != "smc":
            return
        manifest = read_json(path / "run.json")
        manifest["config"]["correction"]["bridge_places"] = bridge
        write_json(path / "run.json", manifest)
    with monkeypatch.context() as broken:
        everywhere(lambda value, z: torch.full_like(value, -torch.inf), broken)
        before = content(path)
        with pytest.raises(CorrectionError, match=r"(rung 0 |bridge from rung 1 ).*train longer"):
            stage_reweight(path, method=method)
        left = content(path)
        assert before.items() <= left.items()
        drawn = [name for name in left if "-smc" in name]
        assert len(drawn) == (3 if method == "smc" and not bridge else 0)
    stage_reweight(path, method=method)
    results = read_results(path / "results.json")
    assert results.method == method
    assert abs(results.free_energy_differences[0].z_score or 9) < 5
    assert {name: content(path)[name] for name in drawn} == {name: left[name] for name in drawn}


@pytest.mark.parametrize("method", METHODS)
def test_one_sample_taking_everything(path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that hardly meets the model: there are results, and they do not flatter."""
    everywhere(lambda value, z: value + 1e4 * z[:, 0].abs(), monkeypatch)
    stage_reweight(path, method=method)
    results = read_results(path / "results.json")
    assert results.independent_fraction < 0.05
    if method in ("is", "smc"):
        assert results.max_weight_share == pytest.approx(1, abs=1e-6)
        assert results.independent_fraction == pytest.approx(1 / 600, rel=1e-3)
    level, sentences = verdict(results)
    assert level is Level.UNRELIABLE
    assert any("too few to trust any number" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (1e4, "a move is accepted in 0.0 % of cases and does nothing there; leave it out"),
        (1e-4, "a move is always accepted; its step is too short"),
    ],
)
def test_moves_that_do_nothing_are_told_with_their_rung(path: Path, step: float, words: str) -> None:
    stage_reweight(path, method="smc")
    pilot = read_json(path / "samples-smc" / "pilot.json")
    pilot["steps"] = [dict.fromkeys(steps, step) for steps in pilot["steps"]]
    write_json(path / "samples-smc" / "pilot.json", pilot)
    for chunk in (path / "samples-smc").glob("chunk-*"):
        chunk.unlink()
    stage_reweight(path, method="smc")
    warnings = [text for text in read_results(path / "results.json").warnings if words in text]
    assert warnings
    assert all(text.startswith("rung ") and "(sigma = " in text for text in warnings)


@pytest.mark.parametrize("method", ["is", "smc"])
def test_a_failure_half_way_keeps_what_was_drawn(
    path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's energies fail in a later chunk; with them mended the run ends where it would have."""
    folder, calls, density = path / "samples", [0], EnergyNetwork.log_density
    if method == "smc":
        stage_reweight(path, method=method)
        folder = path / "samples-smc"
    expected = read_results(path / "results.json")
    first = (folder / "chunk-00000.safetensors").read_bytes()
    for file in [*folder.glob("chunk-*"), path / "results.json"]:
        file.unlink()

    def failing(self: EnergyNetwork, z: Tensor, sigma: Tensor) -> Tensor:
        calls[0] += len(z) == 200
        return density(self, z, sigma) * (math.nan if calls[0] > 20 else 1.0)

    with monkeypatch.context() as broken:
        broken.setattr(EnergyNetwork, "log_density", failing)
        with pytest.raises(CorrectionError, match=r"rung \d+ \(sigma = "):
            stage_reweight(path, method=method)
    left = sorted(file.name for file in folder.glob("chunk-*"))
    assert 0 < len(left) < 3
    assert (folder / left[0]).read_bytes() == first
    stage_reweight(path, method=method)
    assert numbers(read_results(path / "results.json")) == numbers(expected)


def test_the_command_line_says_it_without_a_traceback(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change_model(path, lambda weight: weight * math.nan)
    monkeypatch.setattr(sys, "argv", ["bgdiff", "reweight", str(path), "--method", "smc"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "rung 11 (sigma" in said
    assert "Traceback" not in said
    assert json.loads((path / "results.json").read_text())["method"] == "is"
