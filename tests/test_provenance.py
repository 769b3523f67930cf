"""What the report says about where numbers come from leads back to the same run."""

import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from synthetic_run import double_well

from bgdiff.analysis.provenance import commands, provenance, settings
from bgdiff.analysis.run_files import RunFiles, read_run
from bgdiff.cli_options import parse_overrides
from bgdiff.config import make_config
from bgdiff.io import read_json, write_json
from bgdiff.run import start_run
from bgdiff.systems import load_system

OVERRIDES = {"training": {"steps": 77, "held_out": 0.2}, "correction": {"method": "smc"}}


@pytest.fixture
def run(tmp_path: Path) -> RunFiles:
    """A finished run's results beside the manifest that starting a run writes."""
    double_well(tmp_path, n=300)
    started = start_run("double_well", tmp_path / "started", preset="quick", seed=3, overrides=OVERRIDES)
    manifest = read_json(started / "run.json")
    results = read_json(tmp_path / "results.json") | {"preset": "quick", "seed": 3, "method": "smc"}
    write_json(tmp_path / "results.json", results)
    write_json(tmp_path / "run.json", manifest)
    return read_run(tmp_path)


def settings_of(command: str) -> tuple[list[str], dict[str, str], list[str]]:
    """The first words, options by name, and what was given to --set."""
    words = shlex.split(command)
    pairs = [pair for pair in pairwise(words) if pair[0].startswith("--")]
    return words[:3], dict(pairs), [value for name, value in pairs if name == "--set"]


@pytest.mark.parametrize("told", [True, False], ids=["told", "from the preset"])
def test_the_command_gives_the_same_settings(run: RunFiles, tmp_path: Path, told: bool) -> None:
    if not told:
        del run.manifest["overrides"]
    (command,) = commands(run, tmp_path)
    start, options, chosen = settings_of(command)
    assert start == ["bgdiff", "run", "double_well"]
    recommended = load_system("double_well").spec.settings
    again = make_config(
        options["--preset"],
        seed=int(options["--seed"]),
        recommended=recommended,
        overrides=parse_overrides(chosen),
    )
    assert again.model_dump(mode="json") == run.manifest["config"]
    if told:
        assert set(chosen) == {"training.steps=77", "training.held_out=0.2", "correction.method=smc"}


def test_what_was_done_afterwards_is_said(run: RunFiles, tmp_path: Path) -> None:
    run.manifest["config"]["correction"]["method"] = "is"
    name = shlex.quote(tmp_path.name)
    assert commands(run, tmp_path, free_energies=True)[1:] == [
        f"bgdiff reweight {name} --method smc",
        f"bgdiff free-energy {name}",
    ]
    run.manifest.clear()
    assert commands(run, tmp_path) == []


def test_checksums_and_versions_are_listed(run: RunFiles) -> None:
    rows = dict(provenance(run))
    assert rows["checksum of the data"] == f"SHA-256 {run.manifest['data_digest']}"
    assert rows["seed"] == "3"
    assert rows["versions"].startswith(f"bgdiff {run.results.bgdiff_version}, python 3.11.9")
    listed = dict(settings({"a": {"b": list(range(100))}, "c": [{"d": 1}]}))
    assert listed["a.b"].endswith("23, … (100 values)")
    assert listed["c.0.d"] == "1"
