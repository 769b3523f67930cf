"""Runs corrected by Markov chains: right answers, resumed to the same bits, refused if they make no sense."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_run import SMALL, Stop

from bgdiff.analysis.results import read_results
from bgdiff.chains import ChainPilot, ChainPlan
from bgdiff.chunk_files import WalkRows, load_stretch, load_walks
from bgdiff.config import CorrectionConfig, make_config
from bgdiff.errors import CheckpointError, ConfigError
from bgdiff.outputs import load_arrays
from bgdiff.run import Run, run_all, stage_reweight, stage_sample, stage_train, start_run

CHAINS: dict[str, Any] = SMALL | {
    "sampling": {"n_samples": 2400, "chunk": 700, "n_held_out": 60},
    "correction": {"chains": 15, "thinning": 2, "tuning_rounds": 30, "swap_acceptance": 0.5},
}
METHODS = ["imh", "imh with local moves", "replica-exchange"]
CHANGING = ("timings", "effective_samples_per_second")


def settings(method: str) -> dict[str, Any]:
    moves = {"local_moves": 2} if "moves" in method else {}
    return CHAINS | {"correction": CHAINS["correction"] | {"method": method.split()[0]} | moves}


@pytest.fixture(scope="module", params=METHODS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "chains"
    start_run("double_well", path, seed=4, overrides=settings(request.param))
    run_all(path)
    return path


def content(path: Path) -> dict[str, Any]:
    found = json.loads((path / "results.json").read_text())
    return {key: value for key, value in found.items() if key not in CHANGING}


def test_chains_agree_with_quadrature_and_say_what_they_are_worth(finished: Path) -> None:
    """From a model that is all but untrained, within their own errors."""
    run, results = Run(finished), read_results(finished / "results.json")
    method = run.config.correction.method
    assert results.method == method
    plan = ChainPlan.of(run.config, method)
    assert results.n_samples == 15 * (plan.length - plan.dropped)
    (difference,) = results.free_energy_differences
    assert difference.std_error is not None
    assert 0.02 < difference.std_error < 1
    assert abs(difference.z_score) < 4
    right = next(basin for basin in results.basins if basin.name == "right")
    assert abs(right.reweighted - 0.0673) < 4 * right.reweighted_std_error
    assert (right.proposal, difference.proposal_value) == (None, None)
    assert results.n_chains == 15
    assert 0 < results.effective_fraction < 1
    assert results.independent_fraction == results.effective_fraction
    assert results.autocorrelation_time == pytest.approx(1 / results.effective_fraction)
    assert 0.1 < results.acceptance < 0.99
    assert 1 <= results.rhat < 1.2
    effective = results.effective_fraction * results.n_samples
    assert results.effective_samples_per_evaluation == pytest.approx(effective / results.target_evaluations)
    seconds = sum(results.timings.values()) - results.timings["check"]
    assert results.effective_samples_per_second == pytest.approx(effective / seconds)
    if method == "imh":
        assert abs(results.log_z.z_score) < 4
        assert results.swap_rates is results.round_trips is results.log_z_missing is None
        assert 0 < results.ess_kish < 1
    else:
        assert results.log_z is None
        assert "normaliser" in results.log_z_missing
        assert results.round_trips > 100
        assert 0.1 < results.swap_rates.min <= results.swap_rates.mean < 1
        assert results.ess_kish is results.pareto_k is None
        assert results.ess_forward is not None


def test_what_is_written(finished: Path) -> None:
    """Unweighted samples whose energies, observables and conformations belong together; nothing is evaluated
    twice, and the report can be drawn."""
    run, results = Run(finished), read_results(finished / "results.json")
    proposal = load_arrays(finished / "proposal.npz")
    n = results.n_samples
    assert {name: values.shape for name, values in proposal.items()} == dict.fromkeys(
        ["log_weight", "energy", "obs_x", "obs_y"], (n,)
    )
    assert not proposal["log_weight"].any()
    x = np.load(finished / "samples.npz")["x"]
    assert x.shape == (n, 1, 2)
    np.testing.assert_array_equal(x[:, 0, 0], proposal["obs_x"])
    energy = run.system.target.energy(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(proposal["energy"], energy, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.load(finished / "weights.npy"), 1 / n)
    config = run.config.correction
    if config.method == "imh":
        walks = load_arrays(finished / "walks.npz")["log_weight"]
        assert walks.shape == (2400,)
        spent = 2400 * (1 + config.local_moves) + (200 + 15 * 30 if config.local_moves else 0)
        assert results.target_evaluations == spent + results.n_data
    text = (finished / "report.html").read_text()
    assert "R-hat" in text
    assert ("replica exchange samples the target without" in text) == (config.method != "imh")
    assert {path.stem for path in (finished / "figures").glob("*.png")} == {
        "map_x_y", "profile_x", "profile_y", "chains", "energies", "training", "normalisers", "ladder",
    }  # fmt: skip


@pytest.mark.parametrize(("stage", "count"), [("tune moves", 1), ("sample", 100), ("reweight", 2)])
def test_interrupted_chains_go_on_to_the_same_bits(
    finished: Path, tmp_path: Path, stage: str, count: int
) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    method = Run(path).config.correction.method
    shutil.rmtree(path / f"samples-{method}")
    for name in ("results.json", "proposal.npz", "correction.json"):
        (path / name).unlink()
    if stage == "tune moves" and method == "imh" and not Run(path).config.correction.local_moves:
        return  # there is nothing to tune
    stop, stages = Stop(stage, count).stage, (stage_sample, stage_reweight)
    with pytest.raises(KeyboardInterrupt):
        for work in stages:
            work(path, stop)
    chunks = Run(path).chunks(method)
    rounds = chunks[0][1] // 15 * (2 if method == "replica-exchange" else 1)
    left = {"tune moves": 0, "sample": (count - 1) // rounds, "reweight": len(chunks)}[stage]
    assert len(list((path / f"samples-{method}").glob("chunk-*"))) == left
    for work in stages:
        work(path)
    assert content(path) == content(finished)
    for name in ("proposal.npz", "samples.npz"):
        ours, theirs = load_arrays(path / name), load_arrays(finished / name)
        for key, values in ours.items():
            np.testing.assert_array_equal(values, theirs[key])


def test_a_damaged_stretch_is_drawn_again_alone(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    chunks = [file for file, _ in Run(path).chunks(Run(path).config.correction.method)]
    times = [file.stat().st_mtime_ns for file in chunks]
    chunks[1].write_bytes(chunks[1].read_bytes()[:-9])
    stage_sample(path)
    stage_reweight(path)
    assert content(path) == content(finished)
    assert [file.stat().st_mtime_ns == time for file, time in zip(chunks, times, strict=True)][:3] == [
        True, False, True,
    ]  # fmt: skip


def test_every_method_on_one_trained_run(tmp_path: Path) -> None:
    """Walks are drawn once and used by chains too; another method's time is not counted."""
    path = start_run("double_well", tmp_path / "run", seed=4, overrides=CHAINS)
    for work in (stage_train, stage_sample, stage_reweight):
        work(path)
    before = content(path)
    for method in ("imh", "smc", "replica-exchange"):
        stage_reweight(path, method=method)
        results = read_results(path / "results.json")
        assert results.method == method
        assert abs(results.free_energy_differences[0].z_score) < 4
        known = results.timings
        ours = known["train"] + known[f"sample-{method}"] + known[f"reweight-{method}"]
        ours += known["sample"] if method == "imh" else 0
        worth = results.independent_fraction * results.n_samples
        assert results.effective_samples_per_second == pytest.approx(worth / ours, rel=0.01)
    assert set(known) == {
        stage + suffix
        for stage in ("sample", "reweight")
        for suffix in ("", "-imh", "-smc", "-replica-exchange")
    } | {"train", "check"}
    stage_reweight(path)
    assert content(path) == before


def test_too_few_samples_for_the_chains() -> None:
    few = {"sampling": {"n_samples": 60}, "correction": {"chains": 20}}
    for method in ("imh", "replica-exchange"):
        with pytest.raises(ConfigError, match=r"60 samples in 20 chains leave \d draws of each, and 4 is"):
            ChainPlan.of(make_config(overrides=few), method)


@pytest.mark.parametrize("burn_in", [0.0, 0.1, 0.35])
@pytest.mark.parametrize("method", ["imh", "replica-exchange"])
def test_plans_keep_what_they_promise(method: str, burn_in: float) -> None:
    overrides = {
        "sampling": {"n_samples": 1003, "chunk": 100},
        "correction": {"chains": 7, "burn_in": burn_in},
    }
    plan = ChainPlan.of(make_config(overrides=overrides), method)
    starts, rounds = zip(*plan.stretches, strict=True)
    assert list(starts) == [sum(rounds[:i]) for i in range(len(rounds))]
    assert sum(rounds) == plan.length
    assert max(rounds) == 100 // 7
    kept = [plan.kept(index) for index in range(len(rounds))]
    draws = [
        start + t for start, part in zip(starts, kept, strict=True) for t in range(part.start, part.stop)
    ]
    assert draws == list(range(plan.dropped, plan.length))
    if method == "imh":
        assert plan.length == 143
        assert plan.dropped == pytest.approx(burn_in * 143, abs=1)
    else:
        assert plan.length - plan.dropped == 144
        assert plan.dropped == pytest.approx(burn_in * plan.length, abs=1)


def test_walks_are_read_across_files(tmp_path: Path) -> None:
    path = start_run("double_well", tmp_path / "run", seed=4, overrides=SMALL)
    stage_train(path)
    stage_sample(path)
    chunks = Run(path).chunks()
    whole = torch.cat([load_walks(file).z for file, _ in chunks])
    rows = WalkRows(chunks)
    for start, stop in ((0, 100), (90, 210), (205, 250), (99, 101)):
        assert torch.equal(rows(start, stop).z, whole[start:stop])


def test_pilots_belong_to_their_settings(finished: Path, tmp_path: Path) -> None:
    run = Run(finished)
    file = finished / f"samples-{run.config.correction.method}" / "pilot.safetensors"
    ChainPilot.load(file, run.config.correction)
    with pytest.raises(CheckpointError, match="other correction settings"):
        ChainPilot.load(file, CorrectionConfig(chains=3))
    first, n = run.chunks(run.config.correction.method)[0]
    assert load_stretch(first).z.shape == (n, 2) == (690, 2)
    with pytest.raises(CheckpointError, match="is not the pilot"):
        ChainPilot.load(first, run.config.correction)


def test_walks_are_drawn_for_a_run_that_is_set_to_chains(finished: Path, tmp_path: Path) -> None:
    """Importance sampling of the same model, asked for by name, and back to the run's own method."""
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    stage_reweight(path, method="is")
    results = read_results(path / "results.json")
    assert (results.method, results.n_chains, results.rhat) == ("is", 0, None)
    assert results.n_samples == 2400
    assert abs(results.free_energy_differences[0].z_score) < 4
    stage_reweight(path)
    assert content(path) == content(finished)
