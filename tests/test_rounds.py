"""Self-correcting training: from wrong proportions to right ones, and honest where it cannot get there."""

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_run import Stop, same_results

from bgdiff.analysis.results import read_results
from bgdiff.analysis.verdict import Level, verdict
from bgdiff.coordinates import LatentTarget
from bgdiff.errors import CheckpointError
from bgdiff.free_energies.samples import RunSamples
from bgdiff.free_energy.importance import free_energy_difference
from bgdiff.generator import BoltzmannGenerator
from bgdiff.io import load_tensors
from bgdiff.ladder.resampling import effective_size
from bgdiff.outputs import load_arrays
from bgdiff.round_samples import EarlierRound, earlier_rounds
from bgdiff.rounds import round_log_weight, tempering_power
from bgdiff.run import Run, resume_run, run_all, stage_reweight, start_run
from bgdiff.systems import load_system

# F_right - F_left of the double well (1, -4, 1), by quadrature (DESIGN: -ln(p_r/p_l))
DELTA_F = 2.629382
P_RIGHT = 1 / (1 + math.exp(DELTA_F))

SMALL: dict[str, Any] = {
    "network": {"width": 32, "depth": 1},
    "ladder": {"n_training_rungs": 32, "n_rungs": 30, "moment_samples": 1000, "pilot_samples": 200},
    "training": {"steps": 600, "batch_size": 256, "checkpoint_seconds": 0.5},
    "rounds": {"n_rounds": 2, "n_samples": 4000, "n_rungs": 30, "steps": 600, "learning_rate": 3e-3},
    "sampling": {"n_samples": 4000, "chunk": 2000, "n_held_out": 200},
}
TINY: dict[str, Any] = {
    "network": {"width": 16, "depth": 1},
    "ladder": {"n_training_rungs": 12, "n_rungs": 10, "moment_samples": 200, "pilot_samples": 100},
    "training": {"steps": 20, "batch_size": 64, "checkpoint_seconds": 0},
    "rounds": {"n_rounds": 2, "n_samples": 300, "n_rungs": 8, "steps": 12, "moves": 1},
    "sampling": {"n_samples": 200, "chunk": 100, "n_held_out": 50},
}


def wells(folder: Path, left: int, right: int) -> Path:
    """Frames of the shipped chains: so many of each well, those of the right one consecutive."""
    x = load_system("double_well").load_data(None).x.numpy()
    inside = x[:, 0, 0] > 0
    chosen = [x[~inside][:: max(1, int((~inside).sum()) // left)][:left], x[inside][:right]]
    np.savez(folder / "frames.npz", x=np.concatenate(chosen))
    return folder / "frames.npz"


def shares_of_the_right_well(path: Path) -> list[float]:
    """In the walks of every round, and in those of the final model."""
    run = Run(path)
    rounds = [one.observables["x"] for one in earlier_rounds(run)]
    return [float((x > 0).mean()) for x in (*rounds, load_arrays(path / "proposal.npz")["obs_x"])]


def test_wrong_proportions_are_put_right(tmp_path: Path) -> None:
    data = wells(tmp_path, 4000, 4000)
    path = start_run("double_well", tmp_path / "run", seed=1, overrides=SMALL, data=data)
    run_all(path)
    first, second, final = shares_of_the_right_well(path)
    assert first == pytest.approx(0.5, abs=0.06)  # as the data had it
    for share, limit in ((second, 0.5), (final, 0.3)):  # 2.6 kT off at first
        assert abs(math.log(share / (1 - share)) + DELTA_F) < limit
    results = read_results(path / "results.json")
    (difference,) = results.free_energy_differences
    assert abs(difference.value - DELTA_F) < 4 * difference.std_error
    assert results.ess_kish > 0.8
    # the rounds' own walks tell more about the rare well than the final ones, which hardly visit it
    arrays = load_arrays(path / "proposal.npz")
    assert difference.n_eff > 1.5 * (arrays["obs_x"] > 0).sum()
    assert results.target_evaluations == 8000 + 2 * 4000 + 4000


@pytest.mark.parametrize("least_share", [0.0, 0.1])
def test_one_stretch_of_frames_of_the_minor_well_is_enough(
    tmp_path: Path, least_share: float, caplog: pytest.LogCaptureFixture
) -> None:
    data = wells(tmp_path, 4000, 40)
    overrides = {**SMALL, "rounds": {**SMALL["rounds"], "moves": 3, "least_share": least_share}}
    path = start_run("double_well", tmp_path / "run", seed=1, overrides=overrides, data=data)
    run_all(path)
    assert ("of 3636 training frames; the model may never visit" in caplog.text) is (least_share == 0)
    shares = shares_of_the_right_well(path)
    if least_share:  # 36 training frames of 3636 repeated, then what is left of the raised share
        assert shares[0] == pytest.approx(least_share, abs=0.04)
        assert shares[-1] == pytest.approx(least_share, abs=0.04)
    else:
        assert shares[0] < 0.03
        assert abs(math.log(shares[-1] / (1 - shares[-1])) + DELTA_F) < 0.6
    results = read_results(path / "results.json")
    (difference,) = results.free_energy_differences
    assert abs(difference.value - DELTA_F) < 4 * difference.std_error
    assert difference.std_error < 0.15


def test_a_well_without_data_is_not_claimed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = wells(tmp_path, 4000, 0)
    overrides = {**SMALL, "rounds": {**SMALL["rounds"], "n_rounds": 1}}
    path = start_run("double_well", tmp_path / "run", seed=1, overrides=overrides, data=data)
    with caplog.at_level(logging.WARNING):
        run_all(path)
    assert "no frame of the data set lies in basin right" in caplog.text
    level, sentences = verdict(read_results(path / "results.json"))
    assert level is Level.UNRELIABLE
    assert any(sentence.startswith("Basin right: none of the 4") for sentence in sentences)


POPULATIONS: dict[str, Any] = {
    "rounds": {
        "n_rounds": 1,
        "method": "smc",
        "n_samples": 3000,
        "n_rungs": 20,
        "steps": 400,
        "moves": 2,
        "frames": 3,
    },
    "sampling": {"n_samples": 3000, "chunk": 1500, "n_held_out": 100},
    "correction": {"threshold": 0.95, "bridge_places": 3, "pilot_particles": 50},
}


def test_rounds_of_populations_put_proportions_right(tmp_path: Path) -> None:
    data = wells(tmp_path, 4000, 4000)
    path = start_run("double_well", tmp_path / "run", seed=1, overrides=SMALL | POPULATIONS, data=data)
    run_all(path)
    run = Run(path)
    (earlier,) = earlier_rounds(run)
    assert earlier.family is not None
    assert 1500 < earlier.family.max() < 3000  # of the second population, numbered after the first
    assert (
        len(np.unique(earlier.family)) < 3900
    )  # particles were resampled, and their copies are counted as such
    left, right = earlier.observables["x"] < 0, earlier.observables["x"] > 0
    estimate = free_energy_difference(earlier.log_weight, left, right, family=earlier.family)
    assert abs(estimate.value - DELTA_F) < 4 * estimate.std_error
    share = shares_of_the_right_well(path)[-1]
    assert abs(math.log(share / (1 - share)) + DELTA_F) < 0.5
    results = read_results(path / "results.json")
    (difference,) = results.free_energy_differences
    assert abs(difference.value - DELTA_F) < 4 * difference.std_error
    assert difference.std_error < estimate.std_error  # pooled with the final walks
    record = json.loads((path / "rounds/01/round.json").read_text())
    assert record["effective_fraction"] < effective_size(torch.from_numpy(earlier.log_weight)) / 3000
    # each particle: the end of the bridge, two places with a move, once more to weigh it, and the moves
    assert record["target_evaluations"] > 3000 * (4 + 1 + 6)
    tensors, _ = load_tensors(path / "rounds/01/corrected.safetensors")
    assert tensors["z"].shape == (9000, 2)
    frames = tensors["z"].reshape(3, 3000, 2)
    assert not torch.equal(frames[0], frames[2])
    generator = BoltzmannGenerator.load(run.trained_generator(0), run.system)
    latent = LatentTarget(run.system.target, generator.coordinates)
    torch.testing.assert_close(tensors["log_density"], latent.log_density(tensors["z"]))
    for frame in frames:  # all are of the target
        right = float((generator.coordinates.to_x(frame)[0][:, 0, 0] > 0).double().mean())
        assert abs(math.log(right / (1 - right)) + DELTA_F) < 0.35
    pool = RunSamples(run).rounds[0]
    assert pool.family is not None
    assert sum(len(part) for part in pool.parts) == 3000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = start_run("double_well", tmp_path_factory.mktemp("rounds") / "whole", seed=3, overrides=TINY)
    run_all(path)
    return path


@pytest.mark.parametrize(
    ("stage", "count"),
    [
        ("round 1: sample", 12),
        ("round 1: correct", 2),
        ("round 1: train", 7),
        ("round 1: measure steps", 4),
        ("round 2: sample", 1),
        ("round 2: train", 12),
        ("sample", 3),
    ],
)
def test_interrupted_rounds_resume_to_the_same_bits(
    whole: Path, tmp_path: Path, stage: str, count: int
) -> None:
    path = start_run("double_well", tmp_path / "run", seed=3, overrides=TINY)
    with pytest.raises(KeyboardInterrupt):
        run_all(path, Stop(stage, count).stage)
    resume_run(path)
    run_all(path)
    same_results(whole, path)


@pytest.mark.parametrize(("stage", "count"), [("round 1: tune moves", 3), ("round 1: sample", 12)])
def test_interrupted_populations_resume_to_the_same_bits(tmp_path: Path, stage: str, count: int) -> None:
    rounds = {**TINY["rounds"], "n_rounds": 1, "method": "smc"}
    overrides = TINY | {"rounds": rounds, "correction": {"pilot_particles": 16, "bridge_places": 1}}
    runs = [start_run("double_well", tmp_path / name, seed=3, overrides=overrides) for name in "ab"]
    run_all(runs[0])
    with pytest.raises(KeyboardInterrupt):
        run_all(runs[1], Stop(stage, count).stage)
    run_all(runs[1])
    same_results(*runs)


def test_rounds_are_counted_and_recorded(whole: Path) -> None:
    records = [json.loads((whole / f"rounds/0{index}/round.json").read_text()) for index in (1, 2)]
    n_data = json.loads((whole / "results.json").read_text())["n_data"]
    assert all(record["n_samples"] == 300 for record in records)
    assert all(record["target_evaluations"] > 2 * 300 for record in records)
    total = n_data + 200 + sum(record["target_evaluations"] for record in records)
    assert json.loads((whole / "results.json").read_text())["target_evaluations"] == total


def test_rounds_draw_their_own_random_numbers(whole: Path) -> None:
    run = Run(whole)
    first, second = (EarlierRound.load(run, index) for index in (1, 2))
    final = load_arrays(whole / "proposal.npz")["log_weight"]
    assert not np.isin(first.log_weight, second.log_weight).any()
    assert not np.isin(second.log_weight[:200], final).any()


def test_weights_too_poor_to_use_in_full_are_said_so(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(whole, path)
    file = path / "rounds" / "02" / "round.json"
    record = json.loads(file.read_text())
    assert record["power"] == 1
    assert read_results(path / "results.json").warnings == []
    file.write_text(json.dumps(record | {"power": 0.4}))
    stage_reweight(path)
    assert any("power 0.4" in text for text in read_results(path / "results.json").warnings)


def test_rounds_answer_questions_that_were_asked_later(whole: Path, tmp_path: Path) -> None:
    system = load_system("double_well").path
    shutil.copytree(system, tmp_path / "double_well")
    path = start_run(tmp_path / "double_well", tmp_path / "run", seed=3, overrides=TINY)
    run_all(path)
    spec = tmp_path / "double_well" / "system.yaml"
    text = spec.read_text().replace("reference: reference.json\n", "")
    spec.write_text(text.replace("basins:", "basins:\n  above: {observable: y, intervals: [[0, .inf]]}"))
    stage_reweight(path)
    above = next(basin for basin in read_results(path / "results.json").basins if basin.name == "above")
    assert abs(above.reweighted - 0.5) < 5 * above.reweighted_std_error + 0.02


def test_a_damaged_round_is_named(whole: Path, tmp_path: Path) -> None:
    path = start_run("double_well", tmp_path / "run", seed=3, overrides=TINY)
    with pytest.raises(KeyboardInterrupt):
        run_all(path, Stop("round 2: sample", 1).stage)
    checkpoint = path / "rounds" / "01" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=r"01/checkpoint\.safetensors"):
        run_all(path)


def test_tempered_weights_keep_what_was_asked_for() -> None:
    log_weight = 30 * torch.randn(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    power = tempering_power(log_weight, 0.1)
    assert 0 < power < 1
    assert effective_size(power * log_weight) / 500 == pytest.approx(0.1, rel=1e-3)
    assert tempering_power(log_weight / 1000, 0.1) == 1.0
    log_weight[3] = -torch.inf
    assert 0 < tempering_power(log_weight, 0.1) < 1


def test_rare_basins_get_their_least_share() -> None:
    generator = torch.Generator().manual_seed(2)
    log_weight = torch.randn(1000, generator=generator, dtype=torch.float64)
    basin = torch.full((1000,), -1)
    basin[:900], basin[900:905], basin[905:950] = 0, 1, 2
    log_weight[905:950] = -torch.inf  # reached, but impossible
    before = torch.softmax(log_weight, 0)
    after = torch.softmax(round_log_weight(log_weight, basin, 0.05), 0)
    assert float(after[900:905].sum()) == pytest.approx(0.05)
    assert float(after[905:950].sum()) == 0
    # within a basin, and among all others, nothing changes
    torch.testing.assert_close(after[900:905] / after[900:905].sum(), before[900:905] / before[900:905].sum())
    others = torch.cat([torch.arange(900), torch.arange(950, 1000)])
    torch.testing.assert_close(after[others] / after[others].sum(), before[others] / before[others].sum())
    torch.testing.assert_close(torch.softmax(round_log_weight(log_weight, basin, 0.0), 0), before)
    # four groups cannot have 0.4 each; poor ones get a quarter
    crowded = torch.softmax(round_log_weight(log_weight, basin, 0.4), 0)
    assert float(crowded[900:905].sum()) == pytest.approx(1 / 4)
