"""Several runs compared: z-scores, what agrees, what was set differently, and what cannot be compared."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Call
from scipy.stats import chi2
from synthetic_run import FACTS, comparison
from test_report import outline

from bgdiff.analysis.results import BasinPopulation, FreeEnergyDifference, LogZ, Results, write_results
from bgdiff.analysis.run_comparison import compare_runs, homogeneity
from bgdiff.analysis.run_comparison_plots import comparison_figure
from bgdiff.analysis.run_comparison_view import write_comparison
from bgdiff.config import make_config
from bgdiff.errors import ConfigError, RunDirectoryError
from bgdiff.io import read_json, write_json
from bgdiff.terminal import console


def finished(
    directory: Path,
    value: float | None,
    std_error: float | None,
    *,
    overrides: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A run as far as a comparison reads it: its settings, and ΔF of two basins."""
    difference = FreeEnergyDifference(
        name="wells", initial="left", final="right", value=value, std_error=std_error, method="m",
        n_eff=100.0, reference=2.629382, reference_std_error=0.0,
    )  # fmt: skip
    basins = [
        BasinPopulation(
            name=name, observable="x", intervals=[interval], data=0.5, proposal=0.5, reweighted=0.5,
            reweighted_std_error=0.01,
        )
        for name, interval in (("left", (None, 0.0)), ("right", (0.0, None)))
    ]  # fmt: skip
    content: dict[str, Any] = dict.fromkeys(Results.model_fields) | FACTS
    content |= {
        "schema_version": 1, "system": "double_well", "title": "a double well", "n_samples": 5000,
        "n_nonfinite": 0, "n_data": 100, "n_held_out": 0, "method": "is", "ess_kish": 0.5,
        "effective_fraction": 0.5, "n_resamplings": 0, "n_populations": 0, "n_chains": 0,
        "log_z": LogZ(value=5.95, std_error=0.01, method="m", n_eff=1.0), "basins": basins,
        "free_energy_differences": [difference], "observables": [], "virial": [], "warnings": [],
        "comparison": comparison(value=0.31),
    }  # fmt: skip
    results = Results.model_validate(content | changes)
    directory.mkdir(parents=True)
    write_results(directory / "results.json", results)
    config = make_config("quick", seed=1, overrides=overrides)
    write_json(
        directory / "run.json",
        {"config": config.model_dump(mode="json"), "system_digest": "abc", "data_digest": "def"},
    )
    return directory


def test_estimates_are_compared_by_their_combined_errors(tmp_path: Path) -> None:
    values, errors = [2.60, 2.70, 2.90], [0.03, 0.04, 0.12]
    runs = [finished(tmp_path / str(i), *pair) for i, pair in enumerate(zip(values, errors, strict=True))]
    compared = compare_runs(runs)
    difference, log_z = compared.estimates
    assert difference.name == "ΔF(left → right)"
    assert difference.reference == 2.629382
    expected = [(0, 1, 0.1 / 0.05), (0, 2, 0.3 / np.hypot(0.03, 0.12)), (1, 2, 0.2 / np.hypot(0.04, 0.12))]
    assert [pair[:2] for pair in difference.z_scores] == [pair[:2] for pair in expected]
    np.testing.assert_allclose([z for *_, z in difference.z_scores], [z for *_, z in expected])
    assert difference.largest_z == pytest.approx(expected[1][2])
    weight = 1 / np.square(errors)
    mean = (weight * values).sum() / weight.sum()
    assert difference.p_value == pytest.approx(chi2.sf((weight * (values - mean) ** 2).sum(), 2))
    assert log_z.p_value == pytest.approx(1.0)
    assert compared.settings == ()


def test_false_alarms_are_as_rare_as_said(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    runs = [finished(tmp_path / str(i), 0.0, 1.0) for i in range(4)]
    errors = generator.uniform(0.5, 2.0, size=(3000, 4))
    values = errors * generator.standard_normal(errors.shape)
    p = [homogeneity(*pair) for pair in zip(values, errors, strict=True)]
    alarms = np.mean(np.array(p, dtype=float) < 0.01)
    assert abs(alarms - 0.01) < 4 * np.sqrt(0.01 * 0.99 / 3000)
    assert compare_runs(runs).estimates[0].agree


def test_missing_estimates_are_left_out(tmp_path: Path) -> None:
    first = finished(tmp_path / "a", 2.6, 0.1)
    second = finished(tmp_path / "b", None, None, log_z=None, comparison=None)
    compared = compare_runs([first, second])
    difference, log_z = compared.estimates
    assert difference.values == (2.6, None)
    assert difference.agree is None
    assert log_z.z_scores == ()
    assert len(comparison_figure(compared).axes) >= 5


def test_only_settings_that_differ_are_listed(tmp_path: Path) -> None:
    first = finished(tmp_path / "x" / "run", 2.6, 0.1)
    second = finished(
        tmp_path / "y" / "run", 2.7, 0.1, overrides={"training": {"steps": 77}}, versions={"torch": "2.13.1"}
    )
    compared = compare_runs([first, second])
    assert [run.name for run in compared.runs] == ["x/run", "y/run"]
    settings = dict(compared.settings)
    assert settings["training.steps"][1] == 77
    assert settings["version of torch"] == ("2.13.0", "2.13.1")
    assert set(settings) == {"training.steps", "version of torch", "version of python", "version of numpy"}


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    good, other = finished(tmp_path / "good", 2.6, 0.1), finished(tmp_path / "other", 2.6, 0.1)
    with pytest.raises(RunDirectoryError, match=r"nothing: holds no run"):
        compare_runs([good, tmp_path / "nothing"])
    with pytest.raises(RunDirectoryError, match="given twice"):
        compare_runs([good, tmp_path / "other" / ".." / "good"])
    with pytest.raises(RunDirectoryError, match="about many_well, but .*good about double_well"):
        compare_runs([good, finished(tmp_path / "well", 1.0, 0.1, system="many_well")])
    manifest = read_json(other / "run.json")
    write_json(other / "run.json", manifest | {"system_digest": "xyz"})
    with pytest.raises(RunDirectoryError, match="potential or temperature of double_well is not the same"):
        compare_runs([good, other])
    write_json(other / "run.json", manifest)
    results = read_json(other / "results.json")
    results["basins"][0]["intervals"] = [[None, 0.3]]
    write_json(other / "results.json", results)
    with pytest.raises(RunDirectoryError, match="basin left is defined differently"):
        compare_runs([good, other])
    (other / "results.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"two finished runs; .*other is not finished"):
        compare_runs([good, other])


@pytest.fixture
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Consoles are made once and know the width of the terminal from then on."""
    monkeypatch.setenv("COLUMNS", "160")
    console.cache_clear()
    yield
    console.cache_clear()


@pytest.mark.usefixtures("wide_terminal")
def test_command_shows_writes_and_tells(tmp_path: Path, call: Call) -> None:
    first, second = finished(tmp_path / "one", 2.60, 0.03), finished(tmp_path / "two", 2.95, 0.04)
    third = finished(tmp_path / "three", 0.0, 0.1)
    (third / "results.json").unlink()
    page, figure = tmp_path / "out.html", tmp_path / "out.svg"
    told = call("compare", first, second, third, "--html", page, "--figure", figure)
    assert told.code == 0
    for words in (
        "2.600 ± 0.030",
        "2.950 ± 0.040",
        "✗ do not agree: largest z 7.0",
        "All settings are the same.",
    ):
        assert words in told.out, words
    assert "three: is not finished and left out" in told.said
    assert figure.read_text().startswith("<?xml")
    seen = outline(page)
    assert "2.950 ± 0.040" in seen.text
    assert "three is not finished and left out." in seen.text
    assert all(address.startswith("data:image/png;base64,") for address in seen.addresses)
    found = json.loads(call("compare", first, second, "--json").out)
    assert found["estimates"][0]["agree"] is False
    assert found["runs"][1]["energy_w2"] == {"value": 0.31, "value_std": 0.05, "floor": 0.29}
    assert found["runs"][0]["train_seconds"] == 372.4
    alone = call("compare", first)
    assert alone.code == 2
    assert "a comparison needs two finished runs" in alone.said


def test_figures_have_known_formats(tmp_path: Path) -> None:
    compared = compare_runs([finished(tmp_path / "one", 2.6, 0.03), finished(tmp_path / "two", 2.9, 0.04)])
    with pytest.raises(ConfigError, match=r"out\.xlsx: a figure is a \.png"):
        write_comparison(compared, figure=tmp_path / "out.xlsx")


def test_every_key_is_documented_and_every_documented_key_exists(tmp_path: Path) -> None:
    document = Path(__file__).parents[1] / "docs" / "report.md"
    documented = re.findall(r"^\| `([^`]+)` \|", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = compare_runs(
        [finished(tmp_path / "one", 2.6, 0.03), finished(tmp_path / "two", 2.9, 0.04)]
    ).to_json()
    keys = set(found) - {"runs", "estimates"}
    for name in ("runs", "estimates"):
        keys |= {f"{name}[].{key}" for key in found[name][0]}
    assert set(documented) == keys
