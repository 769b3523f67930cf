"""Studies of objectives: their settings, their jobs, which resume, and files of their rows."""

import json
import math
from pathlib import Path

import pytest

from bgdiff.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _benchmarks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize("study", ["gmm", "modes", "planar"])
def test_settings(study: str) -> None:
    """Every recipe is one, of known objectives and networks; the shorter forms are the same study."""
    from benchmarks.objectives.fitting import Recipe
    from benchmarks.objectives.jobs import merged, settings_of
    from bgdiff.config import NetworkConfig
    from bgdiff.objectives.registry import OBJECTIVES

    settings, quick = settings_of(study, False), settings_of(study, True)
    survey = settings_of(study, False, survey=True)
    assert list(quick["objectives"]) == list(settings["objectives"])
    left_out = set(settings["objectives"]) - set(survey["objectives"])
    assert "DiffCLF Jensen-Shannon + score" in left_out
    assert len(left_out) <= 3
    covered = set()
    for form in (settings, survey):
        for changes in form["objectives"].values():
            for variant in [{}, *form.get("by_dim", {}).values()]:
                recipe = Recipe(**merged(merged(form["recipe"], variant), changes))
                covered |= set(recipe.objectives)
                NetworkConfig(**recipe.network)
                assert form is settings or recipe.steps < 1000
    assert set(OBJECTIVES) - covered == ({"mixed_score"} if study == "planar" else set())  # no forces there
    for changes in settings["objectives"].values():
        assert Recipe(**merged(quick["recipe"], changes)).steps < 10


def test_settings_can_be_changed() -> None:
    from benchmarks.objectives.jobs import settings_of, with_changes

    settings = settings_of("gmm", False)
    changed = with_changes(
        settings, ["recipe.steps=7", "recipe.ema=0.5", "recipe.network.depth=3", "seeds=1"]
    )
    assert (changed["recipe"]["steps"], changed["recipe"]["ema"], changed["seeds"]) == (7, 0.5, 1)
    assert changed["recipe"]["network"] == {**settings["recipe"]["network"], "depth": 3}
    assert settings["recipe"]["steps"] != 7
    by_dim = with_changes(settings_of("modes", False), ["by_dim.32.steps=9", "by_dim.8.groups=1"])["by_dim"]
    assert (by_dim[32]["steps"], by_dim[8]["groups"]) == (9, 1)
    assert by_dim[8]["steps"] > 9
    for wrong in ("recipe.steps", "nonsense=1", "recipe.network.nonsense=1", "dims.first=2"):
        with pytest.raises(ConfigError, match="no setting"):
            with_changes(settings, [wrong])


def test_cheap_objectives_have_more_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.objectives import planar_study
    from benchmarks.objectives.__main__ import main
    from benchmarks.objectives.jobs import settings_of

    settings = settings_of("planar", False, survey=True)
    jobs = planar_study.planar_jobs("planar", settings, None, settings["seeds"])
    seeds: dict[str, set[int]] = {}
    for job in jobs:
        seeds.setdefault(job.describes["objective"], set()).add(job.describes["seed"])
    assert seeds["denoising score"] == set(range(10))
    assert seeds["DiffEBM"] == set(range(3))
    assert len({job.key for job in jobs}) == len(jobs) == 5 * sum(map(len, seeds.values()))
    quick = settings_of("planar", True, survey=True)
    assert {job.describes["seed"] for job in planar_study.planar_jobs("planar", quick, None, 1)} == {0}
    asked = []  # who asks for one seed gets one
    monkeypatch.setattr(planar_study, "_job", lambda *details: asked.append(details[-1]))
    monkeypatch.setattr("benchmarks.objectives.__main__.finished_rows", lambda *_, **__: [])
    main(["planar", "--survey", "--seeds", "1", "--keep", str(tmp_path)])
    assert set(asked) == {0}


@pytest.mark.parametrize("study", ["gmm", "planar"])
def test_studies_run_and_resume(study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.objectives.__main__ import main
    from benchmarks.objectives.jobs import settings_of

    chosen = list(settings_of(study, True)["objectives"])[:2]
    with pytest.raises(ConfigError, match="has no survey"):
        settings_of("alanine", True, survey=True)
    arguments = [study, "--quick", "--keep", str(tmp_path), "--objectives", ";".join(chosen)]
    pages = ["--markdown", str(tmp_path / "tables.md"), "--figures", str(tmp_path)]
    first = main([*arguments, "--json", str(tmp_path / "rows.json"), *pages])
    assert all(f"| {name} | 1 |" in (tmp_path / "tables.md").read_text() for name in chosen)
    assert all(file.stat().st_size < 400_000 for file in tmp_path.glob("*.png"))
    assert any(tmp_path.glob("*.png"))
    assert [row["objective"] for row in first] == chosen
    assert all(row["CPU s"] > 0 and "failed" not in row for row in first)
    shown = (tmp_path / "tables.md").read_text()
    main([study, "--rows", str(tmp_path / "rows.json"), "--markdown", str(tmp_path / "again.md")])
    assert (tmp_path / "again.md").read_text() == shown, "the file of rows is enough for the tables"
    some = [study, "--rows", str(tmp_path / "rows.json"), "--objectives", chosen[1]]
    assert [row["objective"] for row in main(some)] == chosen[1:]
    if study == "gmm":
        assert main([*some, "--dims", "128"]) == []
    with pytest.raises(ConfigError, match="has no rows of modes"):
        main(["modes", "--rows", str(tmp_path / "rows.json")])
    (tmp_path / "rows.json").rename(tmp_path / "rows")
    files = sorted(tmp_path.glob("*.json"))
    assert len(files) == 2
    times = [file.stat().st_mtime_ns for file in files]
    files[0].unlink()
    capsys.readouterr()
    again = main([*arguments, "--read"])
    assert len(again) == 1
    again = main(arguments)
    assert files[1].stat().st_mtime_ns == times[1]  # what was done is not repeated
    kept = {key: value for key, value in again[0].items() if key != "CPU s"}
    assert kept == {key: value for key, value in first[0].items() if key != "CPU s"}, "the same seed again"
    assert chosen[0] in capsys.readouterr().out
    other = tmp_path / "elsewhere"  # what the file of rows knows is not done again
    taken = main([*arguments[:3], str(other), *arguments[4:], "--known", str(tmp_path / "rows")])
    assert [row["objective"] for row in taken] == chosen
    assert not list(other.glob("*.json"))
    taken = main(
        [
            *arguments[:3],
            str(other),
            *arguments[4:],
            "--known",
            str(tmp_path / "rows"),
            "--set",
            "recipe.ema=0.5",
        ]
    )
    assert len(list(other.glob("*.json"))) == 2, "other settings are other jobs"
    changed = {**json.loads(files[0].read_text()), "recipe": {}}
    files[0].write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match="other settings"):
        main(arguments)
    with pytest.raises(ConfigError, match="no objective"):
        main([study, "--quick", "--objectives", "nonsense"])


def test_rows_in_a_file(tmp_path: Path) -> None:
    """Four digits, three in lists, settings with all of theirs, and what is not finite comes back as nan."""
    from benchmarks.objectives.shipped import read_rows, write_rows

    row = {"recipe": {"ema": 0.123456789, "none": None}, "picture": [1], "losses": {"a": [1.0]}, "seed": 3}
    row |= {"ess": [0.123456, math.inf, math.nan], "name": "3×3", "loss": 3.163491}
    write_rows(tmp_path / "rows.json", "planar", [row, row])
    (first, second) = read_rows(tmp_path / "rows.json", "planar")
    assert first["recipe"] == row["recipe"]
    assert first["ess"][0] == 0.123
    assert first["loss"] == 3.163
    assert all(map(math.isnan, first["ess"][1:]))
    assert set(second) == {"recipe", "seed", "ess", "name", "loss"}
    assert (second["seed"], second["name"]) == (3, "3×3")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([3.16349], "3.16"),
        ([1.0, 1.2, 1.4], "1.20 ± 0.20"),
        ([0.00123], "0.00123"),
        ([1234.5, 1300.0], "1267 ± 46"),
        ([0.5, math.inf], "0.500 (1 not finite)"),
        ([math.nan], "not finite"),
        ([0.0], "0.000"),
        ([], ""),
    ],
)
def test_numbers_over_seeds(values: list[float], text: str) -> None:
    from benchmarks.objectives.text import over_seeds

    assert over_seeds(values) == text


@pytest.mark.slow
def test_alanine_study(tmp_path: Path) -> None:
    """A variant of training is a run; what it reaches is in its row, and it is not trained twice."""
    from benchmarks.objectives.__main__ import main

    arguments = ["alanine", "--quick", "--keep", str(tmp_path), "--objectives", "reach 1"]
    (row,) = main(arguments)
    assert row["settings"]["training"]["reach"] == 1.0
    assert row["held-out energy sd / kT"] > 0
    assert row["basin"]["std error"] > 0
    assert 0 < row["ESS"] <= 1
    next(tmp_path.glob("*.json")).unlink()
    (again,) = main(arguments)
    assert {**again, "basin": None} == {**row, "basin": None}
