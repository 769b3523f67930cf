"""bgdiff reweight with every method on a small real run: what is printed, refused, and continued."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Call
from test_run import SMALL

import bgdiff.chunk_files
from bgdiff.analysis.results import read_results
from bgdiff.run import stage_reweight, stage_sample, stage_train, start_run

QUICK: dict[str, Any] = SMALL | {
    "sampling": {"n_samples": 800, "chunk": 300, "n_held_out": 60},
    "correction": {"chains": 10, "thinning": 1, "tuning_rounds": 20, "pilot_particles": 50},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = start_run("double_well", tmp_path_factory.mktemp("runs") / "cli", seed=1, overrides=QUICK)
    for stage in (stage_train, stage_sample, stage_reweight):
        stage(path)
    return path


class Interruption:
    """Writes stretches of chains until Ctrl-C is pressed before the second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.write = 1, bgdiff.chunk_files.save_stretch
        monkeypatch.setattr(bgdiff.chunk_files, "save_stretch", self)

    def __call__(self, *arguments: Any) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.write(*arguments)


@pytest.mark.parametrize("method", ["is", "smc", "imh", "replica-exchange"])
def test_every_method(call: Call, trained: Path, method: str) -> None:
    outcome = call("reweight", trained, "--method", method)
    assert outcome.code == 0, outcome.err
    assert read_results(trained / "results.json").method == method
    assert "effective samples" in outcome.out
    assert ("R-hat" in outcome.out) == (method in ("imh", "replica-exchange"))
    assert ("log Z" in outcome.out) == (method != "replica-exchange")
    assert ("arrivals from the prior" in outcome.out) == (method == "replica-exchange")


@pytest.mark.parametrize("method", ["gibbs", "IMH", "replica_exchange", ""])
def test_unknown_methods_are_refused(call: Call, trained: Path, method: str) -> None:
    before = (trained / "results.json").read_bytes()
    outcome = call("reweight", trained, "--method", method)
    assert outcome.code == 2
    assert "is not one of 'is', 'smc', 'imh', 'replica-exchange'" in outcome.said
    assert (trained / "results.json").read_bytes() == before


@pytest.mark.parametrize("method", ["imh", "replica-exchange"])
def test_the_same_command_continues(
    call: Call,
    trained: Path,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call("reweight", trained, "--method", method)
    whole = json.loads((trained / "results.json").read_text())
    chunks = sorted((trained / f"samples-{method}").iterdir())
    for file in chunks:
        file.unlink()
    Interruption(monkeypatch)
    outcome = call("reweight", trained, "--method", method)
    assert outcome.code == 130
    assert outcome.err.endswith("Stopped; the same command continues it\n")
    assert sum(file.exists() for file in chunks) == 2  # the pilot and the first stretch
    monkeypatch.undo()
    monkeypatch.chdir(trained)
    assert call("reweight", trained, "--method", method).code == 0
    again = json.loads((trained / "results.json").read_text())
    changing = {"timings", "effective_samples_per_second"}
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in whole.items() if k not in changing
    }


def test_a_whole_run_by_chains_resumes(
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = [
        f"--set={section}.{field}={value}"
        for section, fields in (QUICK | {"sampling": {"chunk": 50, "n_held_out": 60}}).items()
        for field, value in fields.items()
    ]
    Interruption(monkeypatch)
    out = tmp_path / "run"
    outcome = call(
        "run", "double_well", *settings, "--samples", 200, "--set=correction.method=imh", "--out", out
    )
    assert outcome.code == 130
    assert "bgdiff run --resume" in outcome.said
    monkeypatch.undo()
    assert call("run", "--resume", out).code == 0
    assert read_results(out / "results.json").method == "imh"
    assert (out / "report.html").is_file()
    bad = call("run", "double_well", "--set=correction.method=gibbs", "--out", tmp_path / "bad")
    assert bad.code == 2
    assert "correction.method: Input should be 'is', 'smc', 'imh' or 'replica-exchange'" in bad.said
