"""Runs: from start to report, stopped anywhere, resumed to the same bits; refused when they make no sense."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import pytest

from bgdiff.errors import (
    BgdiffError,
    CheckpointError,
    DataError,
    RunDirectoryError,
    StorageError,
)
from bgdiff.outputs import load_arrays
from bgdiff.progress import Progress
from bgdiff.run import Run, resume_run, run_all, stage_reweight, stage_sample, stage_train, start_run

SMALL: dict[str, Any] = {
    "network": {"width": 32, "depth": 1},
    "ladder": {"n_training_rungs": 16, "n_rungs": 12, "moment_samples": 256, "pilot_samples": 100},
    "training": {
        "steps": 30,
        "batch_size": 64,
        "evaluate_every": 15,
        "log_every": 10,
        "checkpoint_seconds": 0,
    },
    "sampling": {"n_samples": 250, "chunk": 100, "n_held_out": 60},
}
ARRAYS = ("proposal.npz", "model.npz", "held_out.npz", "data.npz")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = start_run("double_well", tmp_path_factory.mktemp("runs") / "whole", seed=4, overrides=SMALL)
    run_all(path)
    return path


class Stop:
    """Progress that presses Ctrl-C when ``stage`` reports for the ``count``-th time."""

    def __init__(self, stage: str, count: int) -> None:
        self.stage_name, self.left = stage, count

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        def report(done: int, total: int, text: str = "") -> None:
            if name == self.stage_name:
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt

        yield report


def same_results(first: Path, second: Path) -> None:
    for name in ARRAYS:
        ours, theirs = load_arrays(first / name), load_arrays(second / name)
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            np.testing.assert_array_equal(value, theirs[key], err_msg=f"{name}: {key}")
    results = [json.loads((path / "results.json").read_text()) for path in (first, second)]
    for content in results:
        del content["timings"], content["effective_samples_per_second"]
    assert results[0] == results[1]


def test_a_run_leaves_everything_a_reader_needs(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"run.json", "results.json", "report.html", "weights.npy", "samples.npz", *ARRAYS} <= names
    assert not [name for name in names if name.startswith(".")]  # no temporary files
    results = json.loads((finished / "results.json").read_text())
    assert results["n_samples"] == 250
    assert results["target_evaluations"] == 250 + results["n_data"]
    assert np.load(finished / "weights.npy").sum() == pytest.approx(1)
    history = [json.loads(line) for line in (finished / "train" / "history.jsonl").read_text().splitlines()]
    assert [record["step"] for record in history] == [10, 15, 20, 30]


@pytest.mark.parametrize(
    ("stage", "count"),
    [("label data", 1), ("train", 1), ("train", 17), ("train", 30), ("measure steps", 3), ("sample", 1),
     ("sample", 20), ("walk held-out data up", 5), ("reweight", 2)],
)  # fmt: skip
def test_an_interrupted_run_resumes_to_the_same_bits(
    finished: Path, tmp_path: Path, stage: str, count: int
) -> None:
    path = start_run("double_well", tmp_path / "run", seed=4, overrides=SMALL)
    with pytest.raises(KeyboardInterrupt):
        run_all(path, Stop(stage, count).stage)
    resume_run(path)
    run_all(path)
    same_results(finished, path)


def test_stages_by_themselves_equal_the_whole(finished: Path, tmp_path: Path) -> None:
    path = start_run("double_well", tmp_path / "run", seed=4, overrides=SMALL)
    with pytest.raises(RunDirectoryError, match="bgdiff train"):
        stage_sample(path)
    stage_train(path)
    with pytest.raises(RunDirectoryError, match="bgdiff sample"):
        stage_reweight(path)
    stage_sample(path)
    stage_reweight(path)
    same_results(finished, path)


def test_a_method_draws_what_a_trained_run_lacks(finished: Path, tmp_path: Path) -> None:
    path = start_run("double_well", tmp_path / "run", seed=4, overrides=SMALL)
    stage_train(path)
    stage_reweight(path, method="is")
    same_results(finished, path)


def test_another_seed_gives_other_samples(finished: Path, tmp_path: Path) -> None:
    path = start_run("double_well", tmp_path / "run", seed=5, overrides=SMALL)
    run_all(path)
    ours, theirs = (load_arrays(p / "proposal.npz")["log_weight"] for p in (finished, path))
    assert not np.isin(ours, theirs).any()


def test_a_damaged_chunk_is_made_again(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(finished, path)
    chunk = path / "samples" / "chunk-00001.safetensors"
    chunk.write_bytes(chunk.read_bytes()[:500])
    (path / "results.json").unlink()
    run_all(path)
    same_results(finished, path)


def test_a_damaged_checkpoint_is_named_and_loses_nothing(tmp_path: Path) -> None:
    path = start_run("double_well", tmp_path / "run", seed=4, overrides=SMALL)
    with pytest.raises(KeyboardInterrupt):
        run_all(path, Stop("train", 17).stage)
    checkpoint = path / "train" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors.*delete it to redo"):
        run_all(path)
    checkpoint.unlink()
    run_all(path)


@pytest.mark.parametrize("name", ["run.json", "train/generator.safetensors", "proposal.npz"])
def test_damaged_files_are_named(finished: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "copy"
    shutil.copytree(finished, path)
    (path / name).write_bytes(b"{ not what it was")
    with pytest.raises(CheckpointError, match=Path(name).name):
        if name == "proposal.npz":
            from bgdiff.outputs import summarise_run

            summarise_run(Run(path), "0", {})
        else:
            stage_reweight(path)


def test_directories_that_hold_something_else_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="already holds a run.*--resume"):
        start_run("double_well", finished)
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunDirectoryError, match="not an empty directory"):
        start_run("double_well", tmp_path)
    with pytest.raises(RunDirectoryError, match="holds no run"):
        resume_run(tmp_path)
    file = tmp_path / "thesis.tex"
    with pytest.raises(RunDirectoryError, match="not an empty directory"):
        start_run("double_well", file)
    with pytest.raises(StorageError, match="cannot be written"):
        start_run("double_well", file / "run")


def test_two_processes_do_not_share_a_run(finished: Path) -> None:
    with Run(finished).locked(), pytest.raises(RunDirectoryError, match="another process"):
        stage_reweight(finished)


def test_a_changed_system_is_noticed(tmp_path: Path) -> None:
    from bgdiff.systems import load_system

    folder = tmp_path / "double_well"
    shutil.copytree(load_system("double_well").path, folder)
    path = start_run(folder, tmp_path / "run", overrides=SMALL)
    text = (folder / "system.yaml").read_text()
    assert "a: 1.0" in text
    (folder / "system.yaml").write_text(text.replace("a: 1.0", "a: 2.0", 1))
    with pytest.raises(RunDirectoryError, match="potential or temperature"):
        run_all(path)


def test_observables_and_basins_may_be_added_after_the_run(finished: Path, tmp_path: Path) -> None:
    """Also to runs of earlier versions, whose file of held-out frames does not say which they are."""
    from bgdiff.systems import load_system

    folder, path = tmp_path / "double_well", tmp_path / "run"
    shutil.copytree(load_system("double_well").path, folder)
    shutil.copytree(finished, path)
    manifest = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(manifest | {"system_path": str(folder)}))
    held_out = load_arrays(path / "held_out.npz")
    data = Run(path).data
    np.testing.assert_array_equal(held_out["obs_x"], data.x[held_out["index"], 0, 0])
    np.testing.assert_array_equal(held_out["chain"], data.chain[held_out["index"]])
    assert len(set(held_out["chain"])) > 1

    text = (folder / "system.yaml").read_text().split("reference:")
    text[0] = text[0].replace("  x: {", "  height: {component: [0, 1]}\n  x: {")
    text[0] = text[0].replace("basins:", "basins:\n  upper: {observable: height, intervals: [[0, .inf]]}")
    (folder / "system.yaml").write_text(text[0] + text[1].split("\n", 1)[1])
    old = {name: values for name, values in held_out.items() if name in ("log_weight", "obs_x", "obs_y")}
    for content in (held_out, old):
        np.savez(path / "held_out.npz", **content)
        stage_reweight(path)
        renewed = load_arrays(path / "held_out.npz")
        np.testing.assert_array_equal(renewed["obs_height"], held_out["obs_y"])
        np.testing.assert_array_equal(renewed["index"], held_out["index"])
        basins = json.loads((path / "results.json").read_text())["basins"]
        assert "upper" in {basin["name"] for basin in basins}
    np.savez(path / "held_out.npz", log_weight=held_out["log_weight"][:-1])
    before = (path / "proposal.npz").read_bytes()
    with pytest.raises(CheckpointError, match=r"held_out\.npz: its 59 weights do not belong to 60"):
        stage_reweight(path)
    assert (path / "proposal.npz").read_bytes() == before


def test_changed_data_are_noticed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / "mine.npz"
    np.savez(file, x=rng.normal(size=(500, 1, 2)))
    path = start_run("double_well", tmp_path / "run", overrides=SMALL, data=file)
    np.savez(file, x=rng.normal(size=(500, 1, 2)))
    with pytest.raises(RunDirectoryError, match="data set has changed"):
        run_all(path)


def test_too_little_data_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    np.savez(file, x=np.random.default_rng(0).normal(size=(15, 1, 2)))
    path = start_run("double_well", tmp_path / "run", overrides=SMALL, data=file)
    with pytest.raises(DataError, match="too few to whiten"):
        run_all(path)


def test_a_write_that_fails_leaves_a_run_that_resumes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk while the second chunk is written."""
    import bgdiff.chunk_files

    path = start_run("double_well", tmp_path / "run", seed=4, overrides=SMALL)
    whole = bgdiff.chunk_files.save_chunk

    def full(file: Path, paths: Any) -> None:
        if file.name == "chunk-00001.safetensors":
            raise StorageError(f"{file}: cannot be written (No space left on device)")
        whole(file, paths)

    monkeypatch.setattr(bgdiff.chunk_files, "save_chunk", full)
    with pytest.raises(BgdiffError, match="No space left"):
        run_all(path)
    monkeypatch.undo()
    run_all(path)
    same_results(finished, path)


def test_alanine_dipeptide_end_to_end(tmp_path: Path) -> None:
    """The main job in reduced form: every file, in formats that others read."""
    overrides = {
        "network": {"width": 64, "depth": 2},
        "ladder": {"n_training_rungs": 32, "n_rungs": 30, "moment_samples": 512, "pilot_samples": 200},
        "training": {"steps": 120, "batch_size": 128, "learning_rate": 2e-3},
        "sampling": {"n_samples": 300, "chunk": 150, "n_held_out": 100},
    }
    path = start_run("alanine_dipeptide_vacuum", tmp_path / "run", seed=1, overrides=overrides)
    run_all(path)
    trajectory = mdtraj.load(str(path / "samples.dcd"), top=str(path / "topology.pdb"))
    assert trajectory.n_frames == 300
    phi = mdtraj.compute_phi(trajectory)[1][:, 0]
    np.testing.assert_allclose(phi, load_arrays(path / "proposal.npz")["obs_phi"], atol=1e-3)
    results = json.loads((path / "results.json").read_text())
    assert results["n_nonfinite"] == 0
    assert results["ess_kish"] > 2 / 300
    assert results["free_energy_differences"][0]["name"] == "phi"
    assert (path / "figures").is_dir()
