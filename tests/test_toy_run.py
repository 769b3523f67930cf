"""A toy density from equilibrium data to its report, with every kind of observable that needs no molecule."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_many_well import SYSTEM
from test_run import SMALL

from bgdiff.data.generate import generate_data
from bgdiff.data.reference import compute_reference
from bgdiff.outputs import load_arrays
from bgdiff.run import run_all, stage_reweight, start_run
from bgdiff.systems import System

FURTHER = """
  bend: {angle: [0, 1, 2]}
  size: {radius_of_gyration: {}}
basins:
  corner: {conditions: [{observable: bend, intervals: [[0, 90]]}, {observable: x1, intervals: [[0, 1.5]]}]}
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    text = SYSTEM.replace("\nbasins:\n", FURTHER, 1)
    (folder / "system.yaml").write_text(text)
    generate_data(System(folder), folder / "data.npz", processes=1, method="parallel-tempering", frames=1500)
    compute_reference(System(folder), folder / "reference.json")
    text += "data: {file: data.npz, provenance: data.json}\nreference: reference.json\n"
    (folder / "system.yaml").write_text(text)
    run = start_run(folder, folder / "run", seed=2, overrides=SMALL)
    run_all(run)
    return run


def test_results_know_kinds_units_and_conditions(path: Path) -> None:
    results = json.loads((path / "results.json").read_text())
    kinds = {info["name"]: (info["kind"], info["unit"]) for info in results["observables"]}
    assert kinds == {
        "x1": ("component", "reduced"),
        "y3": ("component", "reduced"),
        "right": ("count", "own"),
        "bend": ("angle", "rad"),
        "size": ("radius_of_gyration", "reduced"),
    }
    corner = results["basins"][0]
    assert (corner["observable"], corner["intervals"]) == ("bend", [[0, 90]])
    assert corner["and_conditions"] == [{"observable": "x1", "intervals": [[0, 1.5]]}]
    data = load_arrays(path / "data.npz")
    assert data["obs_bend"].max() <= np.pi
    inside = (np.degrees(data["obs_bend"]) < 90) & (data["obs_x1"] >= 0) & (data["obs_x1"] < 1.5)
    assert 0 < inside.mean() < 1
    assert corner["data"] == pytest.approx(inside.mean())
    exact = {item["name"]: item["reference"] for item in results["free_energy_differences"]}
    p = 1 / (1 + np.exp(exact["first"]))
    assert exact["counts"] == pytest.approx(np.log(3 * p * (1 - p) ** 2 / p**3))


def test_the_report_says_where_basins_are(path: Path) -> None:
    html = (path / "report.html").read_text()
    assert "0° ≤ bend &lt; 90° and 0 ≤ x1 &lt; 1.5" in html
    figures = {file.stem for file in (path / "figures").iterdir()}
    assert {"profile_bend", "profile_x1", "profile_right"} <= figures


def test_observables_that_share_a_name_with_older_ones_are_renewed(path: Path) -> None:
    """The definition may change between two analyses; arrays of the run follow."""
    definition = path.parent / "system.yaml"
    text = definition.read_text()
    try:
        changed = text.replace("x1: {component: [0, 0]}", "x1: {component: [2, 0]}", 1)
        definition.write_text(changed.replace("reference: reference.json\n", "", 1))
        before = load_arrays(path / "held_out.npz")
        stage_reweight(path)
        after = load_arrays(path / "held_out.npz")
        data = load_arrays(path / "data.npz")
        np.testing.assert_array_equal(after["obs_x1"], data["obs_x1"][after["index"]])
        assert (after["obs_x1"] != before["obs_x1"]).any()
        np.testing.assert_array_equal(after["log_weight"], before["log_weight"])
    finally:
        definition.write_text(text)
