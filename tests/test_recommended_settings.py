"""Settings that a system's folder recommends: between the preset and what the user says."""

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from bgdiff.cli_options import parse_overrides
from bgdiff.config import make_config
from bgdiff.console import info_view
from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.info import collect_info
from bgdiff.run import start_run
from bgdiff.systems import load_system

RECOMMENDED = {
    "quick": {
        "network": {"kind": "dense", "particles": {"width": 32}},
        "training": {"steps": 900, "batch_size": 128},
    },
    "best": {"training": {"steps": 9000}},
}


def test_a_system_beats_the_preset_and_the_user_beats_the_system() -> None:
    overrides = parse_overrides(["training.steps=7", "network.particles.reach=4.5"])
    config = make_config("quick", recommended=RECOMMENDED, overrides=overrides)
    assert (config.training.steps, config.training.batch_size) == (7, 128)
    assert config.network.kind == "dense"
    assert (config.network.particles.width, config.network.particles.reach) == (32, 4.5)
    assert config.network.width == make_config("quick").network.width
    assert make_config("standard", recommended=RECOMMENDED) == make_config("standard")
    assert make_config("best", recommended=RECOMMENDED).training.steps == 9000


def test_a_setting_is_no_section() -> None:
    with pytest.raises(ConfigError, match="training"):
        parse_overrides(["training=3", "training.steps=4"])
    with pytest.raises(ConfigError, match="must look like"):
        parse_overrides(["steps=3"])
    with pytest.raises(ConfigError, match="set as a whole"):
        parse_overrides(["network.particles=3", "network.particles.width=4"])


def _copy(tmp_path: Path, settings: str) -> Path:
    folder = tmp_path / "wells"
    shutil.copytree(load_system("double_well").path, folder)
    file = folder / "system.yaml"
    file.write_text(file.read_text() + f"\nsettings: {settings}\n")
    return folder


def test_a_run_records_what_it_was_recommended(tmp_path: Path) -> None:
    folder = _copy(tmp_path, json.dumps(RECOMMENDED))
    start_run(folder, tmp_path / "run", preset="quick", overrides={"training": {"batch_size": 64}})
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert (recorded["training"]["steps"], recorded["training"]["batch_size"]) == (900, 64)
    plain, changed = load_system("double_well"), load_system(folder)
    assert plain.ensemble_digest == changed.ensemble_digest
    assert plain.question_digest == changed.question_digest


def test_info_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _copy(tmp_path, json.dumps(RECOMMENDED))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "system.yaml").write_text("name: broken\n")
    monkeypatch.setenv("BGDIFF_SYSTEMS", str(tmp_path))
    found = collect_info(0)
    assert found["settings"]["wells"]["quick"]["network.particles.width"] == 32
    assert found["settings"]["wells"]["best"] == {"training.steps": 9000}
    assert "broken" not in found["settings"]
    assert "double_well" not in found["settings"]
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(info_view(found))
    assert isinstance(console.file, io.StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("wells, quick")]
    assert "training.steps=900, training.batch_size=128" in lines[0]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ("{fast: {training: {steps: 3}}}", r"settings\.fast.*unknown preset"),
        ("{quick: {training: {stepz: 3}}}", r"settings\.quick.*training\.stepz"),
        ("{quick: {training: {steps: 0}}}", r"settings\.quick.*training\.steps"),
        ("{quick: 3}", r"settings\.quick"),
    ],
)
def test_wrong_recommendations_are_named(tmp_path: Path, settings: str, named: str) -> None:
    with pytest.raises(SystemDefinitionError, match=named):
        load_system(_copy(tmp_path, settings))
