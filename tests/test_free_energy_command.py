"""bgdiff free-energy, end to end on a small double well: numbers, files, refusals, what is shown."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Call
from test_results import schema_keys

from bgdiff.analysis.free_energy_results import FreeEnergies, Quantity, read_free_energies
from bgdiff.errors import CheckpointError, ConfigError, CorrectionError, DataError, RunDirectoryError
from bgdiff.free_energies import Request, free_energies
from bgdiff.run import stage_reweight, stage_sample, stage_train, start_run

DOCUMENT = Path(__file__).parent.parent / "docs" / "free-energies.md"
SMALL: dict[str, Any] = {
    "network": {"width": 32, "depth": 1},
    "ladder": {
        "sigma_min": 0.05,
        "sigma_max": 8.0,
        "n_training_rungs": 32,
        "n_rungs": 24,
        "moment_samples": 256,
        "pilot_samples": 100,
    },
    "training": {"steps": 100, "batch_size": 128},
    "sampling": {"n_samples": 1500, "n_held_out": 200, "chunk": 500},
}
EXACT = {"wells": 2.629382, "log_z": 5.951223}
QUICK = Request(rung_samples=0)


EVERYTHING = Request(
    between=("x in [-inf, 0]", "right"),
    temperatures=(0.9, 1.0, 1.1, 40.0),
    profiles=("x", "component(0, 1)"),
    rung_samples=400,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with samples of its rungs; tests must not change it."""
    directory = tmp_path_factory.mktemp("runs") / "well"
    start_run("double_well", directory, preset="quick", overrides=SMALL)
    for stage in (stage_train, stage_sample, stage_reweight):
        stage(directory)
    free_energies(directory, EVERYTHING)
    return directory


@pytest.fixture(scope="module")
def everything(run: Path) -> FreeEnergies:
    return read_free_energies(run / "free_energies.json")


def quantity(content: FreeEnergies, key: str) -> Quantity:
    return next(one for one in content.quantities if one.key == key)


class TestNumbers:
    @pytest.mark.parametrize("key", ["wells", "log_z"])
    def test_every_estimator_is_right(self, everything: FreeEnergies, key: str) -> None:
        found = quantity(everything, key)
        names = {one.estimator for one in found.estimates}
        assert {"importance sampling", "path BAR", "FEP reverse", "MBAR over rungs"} <= names
        for one in found.estimates:
            if one.exact:
                assert one.value is not None
                assert one.std_error is not None
                assert abs(one.value - EXACT[key]) < 4 * one.std_error, one
        assert {one.estimator for one in found.estimates if one.two_sided} == {"path BAR"}
        assert found.judgement.quoted is not None
        assert found.z_score is not None
        assert abs(found.z_score) < 4

    def test_regions_written_in_a_line_are_the_basins(self, everything: FreeEnergies) -> None:
        ours, theirs = quantity(everything, "between"), quantity(everything, "wells")
        assert ours.value == theirs.value
        assert ours.title == "ΔF(x in [-inf, 0] → right)"
        assert ours.reference is None

    @pytest.mark.parametrize(("key", "n_down", "n_up"), [("log_z", 1500, 200), ("wells", 700, 90)])
    def test_works_cross_at_minus_log_z(
        self, everything: FreeEnergies, key: str, n_down: int, n_up: int
    ) -> None:
        """Crooks: Σ forward/(1 + e^(w - ΔF)) = Σ reverse/(1 + e^(ΔF - w)) where they cross, ΔF = -log Z."""
        works = quantity(everything, key).works[0]
        assert works.crossing is not None
        forward, reverse, edges = (np.array(a) for a in (works.forward, works.reverse, works.edges))
        assert 0.98 < forward.sum() <= 1.0 + 1e-9
        excess = (edges[1:] + edges[:-1]) / 2 - works.crossing
        sides = [(forward, 1 / (1 + np.exp(excess)), n_down), (reverse, 1 / (1 + np.exp(-excess)), n_up)]
        means = [part @ h for part, h, _ in sides]
        errors = [math.sqrt((part @ h**2 - (part @ h) ** 2) / n) for part, h, n in sides]
        assert abs(means[0] - means[1]) < 4 * math.hypot(*errors)

    def test_temperatures(self, everything: FreeEnergies) -> None:
        lower, same, _, far = everything.temperatures
        assert same.differences[0].value == pytest.approx(
            quantity(everything, "wells").estimates[0].value, abs=1e-9
        )
        assert same.change is not None
        assert same.change.value == pytest.approx(0.0, abs=1e-12)
        assert {one.name for one in lower.averages} == {
            "population_left", "population_right", "potential_energy_kT", "mean_x", "mean_y",
        }  # fmt: skip
        x = np.linspace(-5, 5, 20_001)
        weight = np.exp(-(x - 4 * x**2 + x**4) / 0.9)
        exact = -math.log(weight[x >= 0].sum() / weight[x < 0].sum())
        assert lower.differences[0].value is not None
        assert lower.differences[0].std_error is not None
        assert abs(lower.differences[0].value - exact) < 4 * lower.differences[0].std_error
        assert far.refused is not None
        assert "within reach" in far.refused
        assert far.differences == far.averages == []

    def test_profiles(self, everything: FreeEnergies) -> None:
        along_x, along_y = everything.profiles
        assert (along_x.variable, along_y.variable) == ("x", "y")
        edges = np.array(along_y.edges)
        centres = (edges[1:] + edges[:-1]) / 2
        curve = np.array([np.nan if f is None else f for f in along_y.free_energy])
        error = np.array([np.nan if e is None else e for e in along_y.std_error])
        known = np.isfinite(curve) & (np.abs(centres) < 2)
        offset = np.mean((curve - centres**2 / 2)[known])
        assert (np.abs(curve - centres**2 / 2 - offset)[known] < 5 * error[known]).all()
        assert along_x.refused is None
        for low, value, high in zip(along_x.low, along_x.free_energy, along_x.high, strict=True):
            assert value is None or (low is not None and high is not None and low <= value <= high)

    def test_rungs(self, everything: FreeEnergies) -> None:
        rungs = everything.rungs
        assert rungs is not None
        assert rungs.sigma[0] == 0
        assert len(rungs.mbar) == len(rungs.sigma) == len(rungs.overlap)
        assert rungs.mbar[-1] == 0
        assert rungs.learned[0] is None  # the target's is not learned without it
        assert np.allclose(np.sum(rungs.overlap, axis=1), 1)

    def test_bootstrap_errors_agree_with_asymptotic_ones(self, run: Path, tmp_path: Path) -> None:
        content, _ = free_energies(run, Request(rung_samples=0, bootstrap=100, out=tmp_path / "f.json"))
        for found in content.quantities:
            for one in found.estimates:
                asymptotic = one.diagnostics.get("asymptotic_std_error")
                if isinstance(asymptotic, float) and one.std_error is not None:
                    assert "bootstrap" in one.method
                    assert 0.5 < one.std_error / asymptotic < 2, one


class TestRefusals:
    def test_too_few_samples(self, run: Path, tmp_path: Path) -> None:
        """With 30 samples nothing is quoted, and it is said how many more are needed."""
        copy = tmp_path / "few"
        shutil.copytree(run, copy)
        with np.load(copy / "proposal.npz") as stored:
            arrays = dict(stored)
        arrays["log_weight"] = np.where(np.arange(1500) < 30, arrays["log_weight"], -np.inf)
        np.savez(copy / "proposal.npz", **arrays)
        content, _ = free_energies(copy, QUICK)
        found = quantity(content, "wells")
        assert found.value is None
        assert found.judgement.quoted is None
        importance = found.estimates[0]
        assert importance.problem is not None
        assert "effective samples" in importance.problem
        assert found.judgement.more_samples is not None
        assert "more samples" in " ".join(found.judgement.advice)

    @pytest.mark.parametrize("stage", ["rung_samples", "mbar_of_rungs"])
    def test_rungs_that_cannot_be_used_cost_only_their_own_estimates(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
    ) -> None:
        """Populations that collapse, or states that do not connect, as a poor energy makes them."""
        errors = {
            "rung_samples": CorrectionError("one particle carries it all"),
            "mbar_of_rungs": DataError("states 3 and 4 do not overlap"),
        }

        def fail(*_: object, **__: object) -> None:
            raise errors[stage]

        monkeypatch.setattr(f"bgdiff.free_energies.rungs.{stage}", fail)
        copy = tmp_path / "copy"
        shutil.copytree(run, copy)
        content, _ = free_energies(copy, Request(rung_samples=420))
        assert content.rungs is None
        assert any(str(errors[stage]) in text for text in content.warnings)
        for key in ("wells", "log_z"):
            found = quantity(content, key)
            reasons = {one.estimator: one.reason for one in found.missing}
            assert str(errors[stage]) in reasons["MBAR over rungs"]
            assert "path BAR" in {one.estimator for one in found.estimates}
            assert found.value is not None

    def test_forward_and_reverse_disagree(self, run: Path, tmp_path: Path) -> None:
        copy = tmp_path / "biased"
        shutil.copytree(run, copy)
        with np.load(copy / "held_out.npz") as stored:
            arrays = dict(stored)
        arrays["log_weight"] = arrays["log_weight"] + 1.5
        np.savez(copy / "held_out.npz", **arrays)
        content, _ = free_energies(copy, QUICK)
        found = quantity(content, "log_z")
        assert found.value is None
        assert found.judgement.consistent is False
        assert "forward and reverse of path BAR" in found.judgement.verdict

    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            ({"between": ("left", "x in [-1, 1]")}, "overlap"),
            ({"between": ("left", "x in [50, 60]")}, r"region 'x in \[50, 60\]'.*holds none"),
            ({"between": ("left", "centre")}, "no such basin"),
            ({"between": ("left", "x in 5")}, "x in 5"),
            ({"between": ("left", "phi in [0, 10]")}, "phi"),
            ({"profiles": ("phi",)}, "phi"),
            ({"bootstrap": 1}, "--bootstrap 1"),
            ({"temperatures": (-3.0,)}, "--temperature -3"),
            ({"temperatures": (math.nan,)}, "--temperature nan"),
            ({"rung_samples": 5}, "--rung-samples 5"),
        ],
    )
    def test_requests_that_make_no_sense(
        self, run: Path, tmp_path: Path, request_: dict[str, Any], message: str
    ) -> None:
        out = tmp_path / "out.json"
        with pytest.raises((ConfigError, DataError), match=message):
            free_energies(run, Request(**{"rung_samples": 0, "out": out} | request_))
        assert not out.exists()

    def test_runs_that_are_not_there(self, run: Path, tmp_path: Path) -> None:
        with pytest.raises(RunDirectoryError, match="holds no run"):
            free_energies(tmp_path, QUICK)
        with pytest.raises(RunDirectoryError, match="holds no run"):
            free_energies(run, Request(to=tmp_path))
        with pytest.raises(ConfigError, match="is the same run"):
            free_energies(run, Request(to=run))
        start_run("double_well", tmp_path / "new", preset="quick")
        with pytest.raises(RunDirectoryError, match="no weighted samples yet"):
            free_energies(tmp_path / "new", QUICK)


class TestResuming:
    def test_more_frames_and_rungs_are_kept(self, run: Path, tmp_path: Path) -> None:
        copy = tmp_path / "run"
        shutil.copytree(run, copy)
        request = replace(EVERYTHING, frames=700)
        first, path = free_energies(copy, request)
        assert read_free_energies(path) == first
        assert first.settings["frames"] == 700
        files = sorted((copy / "free-energy").iterdir())
        assert [file.name for file in files if file.name.startswith("up-")] == ["up-00000.npz"]
        torn = [files[3], next(file for file in files if file.name == "up-00000.npz")]
        times = {file: file.stat().st_mtime_ns for file in files if file not in torn}
        for file in torn:  # damaged pieces are made again, the others are read
            file.write_bytes(b"torn")
        again, _ = free_energies(copy, request)
        assert again == first
        assert {file: file.stat().st_mtime_ns for file in times} == times

    def test_damaged_result_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "free_energies.json"
        path.write_text(json.dumps({"schema_version": 9}))
        with pytest.raises(CheckpointError, match="schema version 9, this bgdiff reads version 1"):
            read_free_energies(path)
        path.write_text(json.dumps({"schema_version": 1, "surprise": 2}))
        with pytest.raises(CheckpointError, match="surprise"):
            read_free_energies(path)


class TestCommand:
    def test_tables_and_verdict(self, call: Call, run: Path, tmp_path: Path) -> None:
        options = ["--rung-samples", 0, "--temperature", 1.1, "--profile", "x", "--out", tmp_path / "f.json"]
        outcome = call("-q", "free-energy", run, *options)
        assert outcome.code == 0, outcome.err
        said = " ".join(outcome.out.split())
        for words in (
            "ΔF(left → right) / kT", "importance sampling", "path BAR", "FEP reverse", "quoted",
            "reference 2.629384 (exact)", "combined errors", "At other temperatures", "Profile along x",
            "no MBAR over rungs: the rungs were not sampled", "in reduced units", "wrote",
        ):  # fmt: skip
            assert words in said, words
        assert max(map(len, outcome.out.splitlines())) <= 80

    def test_json(self, call: Call, run: Path, tmp_path: Path) -> None:
        outcome = call("-q", "free-energy", run, "--rung-samples", 0, "--json", "--out", tmp_path / "f.json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out) == json.loads((tmp_path / "f.json").read_text())

    def test_errors_are_one_message(self, call: Call, run: Path) -> None:
        outcome = call("free-energy", run, "--between", "left", "nowhere")
        assert outcome.code == 2
        assert "nowhere" in outcome.said
        assert "Traceback" not in outcome.err
        assert call("free-energy", run, "--between", "left").code == 2

    def test_help(self, call: Call) -> None:
        outcome = call("free-energy", "--help")
        assert outcome.code == 0
        for option in (
            "--between",
            "--to",
            "--temperature",
            "--profile",
            "--bootstrap",
            "--frames",
            "--json",
        ):
            assert option in outcome.out


def test_every_key_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    documented = set(re.findall(r"`([^`]+)`", text.split("## free_energies.json")[1]))
    alike = re.compile(r"^temperatures\[\]\.(change|differences\[\])\.")
    keys = {alike.sub("quantities[].estimates[].", key) for key in schema_keys(FreeEnergies)}
    assert keys <= documented, keys - documented
