"""Independent reference values: replica exchange against quadrature, its parts against analytic answers."""

import json

import numpy as np
import pytest
from molecules import switch_difference, switch_folder, switch_system, twist_difference, twist_system

from bgdiff.data.ladder_analysis import (
    basin_changes,
    convergence,
    log_ratio,
    mbar_log_weights,
    mixing,
    profile,
    start_agreement,
)
from bgdiff.data.reference import compute_reference
from bgdiff.errors import ConfigError, DataError, SystemDefinitionError
from bgdiff.systems import load_system


def test_replica_exchange_finds_a_known_difference(tmp_path):
    system = switch_system(tmp_path / "switch")
    result = json.loads(
        compute_reference(system, tmp_path / "reference.json", seed=1, processes=1).read_text()
    )
    (difference,) = result["free_energy_differences"]
    assert 0.0 < difference["std_error"] < 0.3
    assert abs(difference["value"] - switch_difference()) < 5 * difference["std_error"]
    assert difference["value"] == pytest.approx(np.mean(difference["per_group"]))
    assert len(difference["per_group"]) == 8
    assert result["ladders_per_group"] == 1  # OpenMM runs one after the other
    assert "OpenMM" in result["evaluator"]
    assert difference["command"] == "bgdiff reference switch --seed 1"
    assert min(difference["basin_changes"]) > 0
    assert min(result["round_trips"]) > 0
    assert all(0.1 < rate < 1 for rate in result["swap_acceptance"])
    assert result["move_acceptance"] == [1, 1, 1]
    assert result["temperatures"] == pytest.approx([300, np.sqrt(300 * 900), 900])
    assert 0.9 < result["convergence"]["r"]["rhat"] < 1.2
    assert result["question_digest"] == system.question_digest
    assert not (tmp_path / "reference.json.parts").exists()


def test_the_batched_engine_finds_a_known_difference(tmp_path):
    system = twist_system(tmp_path / "twist")
    result = json.loads(
        compute_reference(system, tmp_path / "reference.json", seed=1, processes=1).read_text()
    )
    (difference,) = result["free_energy_differences"]
    for estimate in (difference, difference["lowest_temperature_alone"]):
        error = np.hypot(estimate["std_error"], 0.02)  # four groups know their own error only roughly
        assert abs(estimate["value"] - twist_difference()) < 4 * error
        assert error < 0.1
    for temperature, population in zip(
        result["temperatures"], difference["final_basin_by_temperature"], strict=True
    ):
        exact = 1 / (1 + np.exp(twist_difference(temperature / 300)))
        assert population == pytest.approx(exact, abs=0.03)
    assert result["ladders_per_group"] == 32
    assert "OpenMM" not in result["evaluator"]
    assert all(0.8 < rate < 1 for rate in result["move_acceptance"])
    assert all(0.1 < rate < 1 for rate in result["swap_acceptance"])
    assert min(result["round_trips"]) > 0
    assert min(difference["basin_changes"]) > 0
    assert result["total_ns"] == pytest.approx(4 * 32 * 3 * 0.02)
    assert set(result["convergence"]) == {"phi", "energy"}
    assert result["convergence"]["phi"]["rhat"] < 1.1
    assert result["convergence"]["energy"]["effective_draws"] > 1000


def test_an_interrupted_reference_resumes_to_the_same_values(tmp_path):
    folder = switch_folder(tmp_path / "switch")
    text = (folder / "system.yaml").read_text()
    (folder / "system.yaml").write_text(text.replace("length_ns: 0.05", "length_ns: 0.024"))
    system = load_system(folder)

    def interrupt(done, total, text=""):
        if done == 9:
            raise KeyboardInterrupt

    whole = compute_reference(system, tmp_path / "whole.json", processes=1)
    with pytest.raises(KeyboardInterrupt):
        compute_reference(system, tmp_path / "cut.json", processes=1, progress=interrupt)
    cut = compute_reference(system, tmp_path / "cut.json", processes=1)
    assert json.loads(cut.read_text()) == json.loads(whole.read_text())


def test_the_double_well_is_integrated(tmp_path):
    system = load_system("double_well")
    result = json.loads(compute_reference(system, tmp_path / "reference.json").read_text())
    assert result["log_z"]["value"] == pytest.approx(5.951223, abs=2e-6)
    assert result["free_energy_differences"][0]["value"] == pytest.approx(2.629382, abs=2e-6)
    assert result["free_energy_differences"] == system.reference["free_energy_differences"]
    with pytest.raises(ConfigError, match="exists already"):
        compute_reference(system, tmp_path / "reference.json")


@pytest.mark.parametrize("name", ["alanine_dipeptide_vacuum", "alanine_dipeptide_obc1"])
def test_shipped_references_of_alanine_dipeptide(name):
    system = load_system(name)
    reference = system.reference
    (difference,) = reference["free_energy_differences"]
    assert difference["name"] == "phi"
    assert difference["std_error"] <= 0.03
    assert reference["settings"] == system.spec.replica_exchange.model_dump(mode="json")
    alone = difference["lowest_temperature_alone"]
    assert abs(alone["value"] - difference["value"]) < 4 * alone["std_error"]
    by_start: dict[bool, list[float]] = {True: [], False: []}
    for start, value in zip(reference["settings"]["starts"], difference["per_group"], strict=True):
        by_start[start["phi"] > 0].append(value)
    upper, lower = by_start[True], by_start[False]
    error = np.hypot(*(np.std(values, ddof=1) / np.sqrt(len(values)) for values in (upper, lower)))
    assert abs(np.mean(upper) - np.mean(lower)) < 4 * error  # ladders have forgotten the basin they began in
    judged = {**reference["convergence"], **difference["convergence"]}
    assert set(judged) == {"phi", "psi", "energy", "phi_positive"}
    assert all(item["rhat"] < 1.01 for item in judged.values())


def test_references_that_are_not_possible(tmp_path):
    folder = switch_folder(tmp_path / "switch")
    text = (folder / "system.yaml").read_text()
    (folder / "system.yaml").write_text(
        text.replace("[[0.25, .inf]]", "[[5, .inf]]").replace("0.05,", "0.001,")
    )
    with pytest.raises(DataError, match="difference length, ladders of start 0: .* never visited"):
        compute_reference(load_system(folder), tmp_path / "a.json", processes=1)
    (folder / "system.yaml").write_text(text[: text.index("replica_exchange")])
    with pytest.raises(SystemDefinitionError, match="has no 'replica_exchange' section"):
        compute_reference(load_system(folder), tmp_path / "b.json", processes=1)
    text = (load_system("double_well").path / "system.yaml").read_text()
    one, other = "{observable: x, intervals: [[-.inf, 0]]}", "{observable: same, intervals: [[-1, 0]]}"
    text = text.replace("  y: {", "  same: {component: [0, 0]}\n  y: {")
    (folder / "system.yaml").write_text(
        text.replace(f"left: {one}", f"left: {{conditions: [{one}, {other}]}}")
    )
    with pytest.raises(SystemDefinitionError, match=r"basins\.left: only intervals of different coordinates"):
        compute_reference(load_system(folder), tmp_path / "c.json")


def test_an_unstable_ladder_is_told(tmp_path):
    folder = switch_folder(tmp_path / "switch")
    xml = (folder / "system.xml").read_text()
    (folder / "system.xml").write_text(xml.replace('mass="10"', 'mass=".00001"'))
    with pytest.raises(
        DataError, match=r"ladders of start 0: .* exploded .* reduce replica_exchange\.step_fs"
    ):
        compute_reference(load_system(folder), tmp_path / "a.json", processes=1)


def test_mbar_weights_recover_harmonic_oscillators():
    beta = np.array([1.0, 0.5, 0.25])
    scores, ratios = [], []
    for repeat in range(40):
        x = np.random.default_rng(repeat).normal(size=(200, 3)) / np.sqrt(beta)
        log_weight = mbar_log_weights(x**2 / 2, beta)
        assert np.exp(log_weight).sum() == pytest.approx(1)
        scores.append((np.exp(log_weight) * x**2).sum())
        ratios.append(log_ratio(log_weight, x < 1, x >= 1))
    exact_ratio = np.log(0.8413447460685429 / 0.15865525393145707)
    for values, exact in ((scores, 1.0), (ratios, exact_ratio)):
        assert abs(np.mean(values) - exact) / (np.std(values, ddof=1) / np.sqrt(len(values))) < 4
    assert np.std(scores) < 0.8 * np.sqrt(2 / 200)  # hot samples add information to those of the lowest rung


def test_profiles_have_their_minimum_at_zero():
    angles = [np.random.default_rng(k).vonmises(1.0, 4.0, size=(4000, 1)) for k in range(4)]
    weights = [np.full((4000, 1), -np.log(4000.0))] * 4
    result = profile(weights, angles, bins=36)
    centre = np.radians((result["edges"][1:] + result["edges"][:-1]) / 2)
    exact = -4 * np.cos(centre - 1.0)
    seen = result["value"] < 4
    assert result["value"].min() == 0
    z = (result["value"] - result["value"][seen].mean() - exact + exact[seen].mean())[seen]
    assert np.abs(z / np.hypot(result["std_error"][seen], 0.05)).max() < 6
    assert np.isinf(result["value"]).any()


def test_basin_changes_of_a_known_walk():
    walker = np.array([[0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0], [2, 0, 1], [0, 2, 1]])
    final = np.zeros((6, 3), dtype=bool)
    final[2:4, 2] = True  # walker 0 is away for two rounds
    final[4, 2] = True  # walker 1 for one
    for copies in (1, 2):
        walkers, finals = (np.stack([array] * copies, 1) for array in (walker, final))
        assert basin_changes(walkers, ~finals, finals, lasting=1) == copies * (2 + 2)
        assert basin_changes(walkers, ~finals, finals, lasting=2) == copies * 2


def test_mixing_and_convergence_are_summarised(caplog):
    chunks = {
        "exchanged": np.array([[3.0, 0.0], [1.0, 2.0]]),
        "tried": np.array([[4.0, 0.0], [4.0, 4.0]]),
        "acceptance": np.array([[4.0, 2.0, 1.0], [4.0, 2.0, 1.0]]),
        "moves": np.array([[5], [3]]),
        "trips": np.array([[1, 0], [2, 2]]),
    }
    result = mixing([chunks, chunks])
    assert result["swap_acceptance"].tolist() == [0.5, 0.5]
    assert result["move_acceptance"].tolist() == [1, 0.5, 0.25]
    assert result["round_trips"] == [5, 5]
    rng = np.random.default_rng(0)
    angles = np.mod(rng.normal(np.pi, 0.1, size=(8, 500)) + np.pi, 2 * np.pi) - np.pi  # around ±180°
    shifted = rng.normal(size=(8, 500)) + np.arange(8)[:, None]
    found = convergence({"angle": angles, "shifted": shifted}, periodic=["angle"])
    assert found["angle"]["rhat"] < 1.01
    assert 3000 < found["angle"]["effective_draws"] < 6000
    assert found["shifted"]["rhat"] > 2
    assert "shifted: R-hat is" in caplog.text
    assert "angle" not in caplog.text


def test_ladders_of_one_start_are_summarised():
    summary = start_agreement(np.array([1.0, 5.0, 3.0]), [{"phi": -80.0}, {"phi": 60.0}, {"phi": -80.0}])
    assert summary[0] == {"start": {"phi": -80.0}, "value": 2.0, "std_error": pytest.approx(1.0)}
    assert summary[1] == {"start": {"phi": 60.0}, "value": 5.0, "std_error": None}
