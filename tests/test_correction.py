"""Runs corrected by sequential Monte Carlo: same answers, resumed to the same bits, honest bookkeeping."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_run import SMALL, Stop, same_results

from bgdiff.analysis.results import read_results
from bgdiff.chunk_files import load_population
from bgdiff.config import CorrectionConfig
from bgdiff.correction import Pilot, stage_notes
from bgdiff.errors import CheckpointError, ConfigError
from bgdiff.ladder.smc import StageRecord
from bgdiff.outputs import load_arrays
from bgdiff.run import Run, run_all, stage_reweight, start_run

SMC: dict[str, Any] = SMALL | {
    "correction": {"method": "smc", "threshold": 0.9, "bridge_places": 3, "pilot_particles": 60}
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = start_run("double_well", tmp_path_factory.mktemp("runs") / "smc", seed=4, overrides=SMC)
    run_all(path)
    return path


def test_a_run_by_smc_reports_what_it_did(finished: Path) -> None:
    results = read_results(finished / "results.json")
    proposal = load_arrays(finished / "proposal.npz")
    assert results.method == "smc"
    assert results.n_populations == 3
    assert results.n_resamplings >= 1, "the model is all but untrained"
    assert results.surviving_ancestors == len(np.unique(proposal["family"])) < 250
    assert proposal["family"].shape == (250,)
    assert (proposal["family"][100:200] // 100 == 1).all(), "families stay within their population"
    assert results.effective_fraction is not None
    assert results.effective_fraction <= min(results.ess_kish, results.surviving_ancestors / 250) + 1e-12
    pilot = json.loads((finished / "samples-smc" / "pilot.json").read_text())
    # one for the final weight, one at the start of the bridge, one for each move at two of its three places
    spent = 250 * (1 + 1 + 2)
    assert results.target_evaluations == spent + pilot["target_evaluations"] + results.n_data
    assert not (finished / "samples").exists()
    assert abs(results.log_z.value - 5.95) < 5 * results.log_z.std_error + 0.3


def test_the_pilot_chooses_rungs_of_even_overlap(tmp_path: Path) -> None:
    settings = {**SMC["correction"], "overlap": 0.998, "threshold": 0.0, "pilot_particles": 1000}
    overrides = SMC | {"correction": settings}
    path = start_run("double_well", tmp_path / "run", seed=4, overrides=overrides)
    with pytest.raises(KeyboardInterrupt):
        run_all(path, Stop("sample", 5).stage)
    pilot = Pilot.load(path / "samples-smc" / "pilot.json", Run(path).config.correction)
    run_all(path)
    records = load_population(path / "samples-smc" / "chunk-00000.safetensors")[2]["records"]
    kept = [record.conditional_fraction for record in records if "bridge" not in record.stage]
    assert len(kept) == len(pilot.sigma) - 2  # but the first, to the prior, and the last, to the target
    assert np.mean(kept) == pytest.approx(0.998, abs=0.0015)
    assert min(kept) > 0.99


@pytest.mark.parametrize(
    ("stage", "count"), [("tune moves", 3), ("sample", 1), ("sample", 25), ("reweight", 2)]
)
def test_an_interrupted_run_resumes_to_the_same_bits(
    finished: Path, tmp_path: Path, stage: str, count: int
) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    shutil.rmtree(path / "samples-smc")
    for name in ("results.json", "proposal.npz", "correction.json"):
        (path / name).unlink()
    with pytest.raises(KeyboardInterrupt):
        run_all(path, Stop(stage, count).stage)
    run_all(path)
    same_results(finished, path)


def test_either_method_on_a_trained_run(finished: Path, tmp_path: Path) -> None:
    """A run made of walks can be corrected by SMC and back; both leave their samples in peace."""
    walks = start_run("double_well", tmp_path / "walks", seed=4, overrides=SMALL)
    (walks / "train").mkdir()
    shutil.copy(finished / "train" / "generator.safetensors", walks / "train")
    shutil.copy(finished / "train" / "history.jsonl", walks / "train")
    run_all(walks)
    before = read_results(walks / "results.json")
    assert (before.method, before.surviving_ancestors, before.n_resamplings) == ("is", None, 0)
    stage_reweight(walks, method="smc")
    between = read_results(walks / "results.json")
    assert between.method == "smc"
    error = np.hypot(before.log_z.std_error, between.log_z.std_error)
    assert abs(before.log_z.value - between.log_z.value) < 5 * error + 0.3
    stage_reweight(walks)
    after = read_results(walks / "results.json")
    changing = {"timings", "effective_samples_per_second"}
    assert after.model_dump(exclude=changing) == before.model_dump(exclude=changing)


def test_an_unknown_method_is_refused(finished: Path) -> None:
    with pytest.raises(ConfigError, match="unknown method .* is, smc, imh, replica-exchange"):
        stage_reweight(finished, method="magic")


def test_runs_without_the_file_of_the_correction_are_those_of_walks(finished: Path, tmp_path: Path) -> None:
    from bgdiff.outputs import summarise_run

    path = tmp_path / "old"
    shutil.copytree(finished, path)
    (path / "correction.json").unlink()
    assert summarise_run(Run(path), "0", {}).method == "is"


def test_pilots_are_kept_with_their_settings(tmp_path: Path) -> None:
    config = CorrectionConfig(bridge_places=2)
    pilot = Pilot(({1: 0.1 + 0.2, 7: 1 / 3}, {}), ((0.7, 1e-3), (0.5, 0.25)), 4711)
    pilot.save(tmp_path / "pilot.json", config)
    assert Pilot.load(tmp_path / "pilot.json", config) == pilot
    with pytest.raises(CheckpointError, match="other correction settings"):
        Pilot.load(tmp_path / "pilot.json", CorrectionConfig(bridge_places=3))
    with pytest.raises(CheckpointError, match="missing"):
        Pilot.load(tmp_path / "nothing.json", config)
    (tmp_path / "pilot.json").write_text("{}")
    with pytest.raises(CheckpointError, match="another version"):
        Pilot.load(tmp_path / "pilot.json", config)


def test_useless_moves_are_told_with_their_rung() -> None:
    def records(rates: tuple[float, ...]) -> list[StageRecord]:
        return [StageRecord("rung 2 (sigma = 0.1)", 0.9, 0.9, 0, False, rates)]

    notes = stage_notes([records((0.5, 0.002, 1.0)), records((0.6, 0.004, 1.0))])
    assert len(notes) == 2
    assert notes[0].startswith("rung 2 (sigma = 0.1): a move is accepted in 0.3 % of cases")
    assert "always accepted" in notes[1]
    assert stage_notes([]) == []
