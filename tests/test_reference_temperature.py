"""References at other temperatures: averages and free energies that quadrature knows exactly."""

import json

import numpy as np
import pytest
from molecules import FOLD, TILT, twist_difference, twist_folder, twist_log_z
from scipy.integrate import quad

from bgdiff.data.reference import compute_reference
from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.systems import load_system

WARM = 345.0


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    folder = twist_folder(tmp_path_factory.mktemp("systems") / "twist")
    with open(folder / "system.yaml", "a") as stream:
        stream.write(f"references_at: {{{WARM}: warm.json}}\n")
    return load_system(folder)


@pytest.fixture(scope="module")
def result(system):
    out = system.path / "warm.json"
    compute_reference(system, out, seed=2, processes=1, temperature=WARM, length_ns=0.01)
    return json.loads(out.read_text())


def assert_near(estimate, exact, slack):
    """Within four errors; four groups know their own error only roughly, hence some slack."""
    assert abs(estimate["value"] - exact) < 4 * np.hypot(estimate["std_error"], slack)


def torsion_mean(function):
    """Mean over the torsion's density at WARM."""

    def density(phi):
        return np.exp(-300 / WARM * (TILT * np.cos(phi) + FOLD * (1 - np.cos(2 * phi))))

    return quad(lambda phi: function(phi) * density(phi), -np.pi, np.pi)[0] / quad(density, -np.pi, np.pi)[0]


def test_averages_at_another_temperature(result):
    averages = result["averages"]
    assert_near(averages["cos_phi"], torsion_mean(np.cos), 0.01)
    assert_near(averages["sin_phi"], 0.0, 0.002)
    cis = 1 / (1 + np.exp(twist_difference(WARM / 300)))
    for estimate in (averages["population_cis"], averages["population_cis"]["lowest_temperature_alone"]):
        assert_near(estimate, cis, 0.005)
    assert averages["population_cis"]["value"] + averages["population_trans"]["value"] == pytest.approx(1)
    # d log Z / d beta; log Z at three temperatures gives the mean energy and its variance
    beta = np.array([0.99, 1.0, 1.01])
    log_z = np.array([twist_log_z(temperature=WARM / b) for b in beta])
    mean, variance = (log_z[0] - log_z[2]) / 0.02, (log_z[0] - 2 * log_z[1] + log_z[2]) / 0.01**2
    assert_near(averages["potential_energy_kT"], mean, 0.02)
    assert_near(averages["potential_energy_std_kT"], np.sqrt(variance), 0.02)
    ratio = averages["potential_energy_kJ_per_mol"]["value"] / averages["potential_energy_kT"]["value"]
    assert ratio == pytest.approx(8.31446261815324e-3 * WARM)


def test_free_energies_of_the_temperatures(result):
    rows = result["temperature_free_energies"]
    assert [row["temperature"] for row in rows] == pytest.approx([300, WARM, np.sqrt(WARM * 900), 900])
    for row in rows:
        exact = twist_log_z(temperature=WARM) - twist_log_z(temperature=row["temperature"])
        assert_near(row, exact, 0.01)
    assert_near(result["free_energy_differences"][0], twist_difference(WARM / 300), 0.02)


def test_it_is_found_by_its_temperature(system, result):
    warm = system.at_temperature(WARM)
    assert warm.reference == result
    assert result["temperature"] == WARM
    assert result["command"] == "bgdiff reference twist --seed 2 --temperature 345 --length-ns 0.01"
    assert result["settings"]["length_ns"] == 0.01
    assert result["temperatures"][0] == WARM
    assert system.reference == {}
    (system.path / "warm.json").write_text(json.dumps(result | {"question_digest": system.question_digest}))
    with pytest.raises(SystemDefinitionError, match="for another potential, temperature or basins"):
        _ = system.at_temperature(WARM).reference


def test_temperatures_and_lengths_that_make_no_sense(system, tmp_path):
    with pytest.raises(ConfigError, match="t_max: must be above 950 K"):
        compute_reference(system, tmp_path / "a.json", temperature=950)
    with pytest.raises(ConfigError, match="positive number of kelvin, not nan"):
        compute_reference(system, tmp_path / "a.json", temperature=float("nan"))
    with pytest.raises(ConfigError, match="length of a simulation must be positive, not 0 ns"):
        compute_reference(system, tmp_path / "a.json", length_ns=0)
    with pytest.raises(ConfigError, match="double_well is integrated"):
        compute_reference(load_system("double_well"), tmp_path / "a.json", length_ns=1)
    with pytest.raises(ConfigError, match="double_well is in reduced units"):
        compute_reference(load_system("double_well"), tmp_path / "a.json", temperature=340)


def test_shipped_references_at_other_temperatures():
    system = load_system("alanine_dipeptide_obc1")
    precision = {280: 0.06, 340: 0.03}  # kT; φ > 0 is rarer, and exchanges fewer, at 280 K
    assert system.spec.references_at.keys() == precision.keys()
    for temperature in precision:
        reference = system.at_temperature(temperature).reference
        settings = system.spec.replica_exchange.model_dump(mode="json", exclude={"length_ns"})
        assert {key: reference["settings"][key] for key in settings} == settings
        (difference,) = reference["free_energy_differences"]
        assert difference["std_error"] <= precision[temperature]
        judged = {**reference["convergence"], **difference["convergence"]}
        assert all(item["rhat"] < 1.01 for item in judged.values())
        for estimate in (difference, *reference["averages"].values()):
            alone = estimate["lowest_temperature_alone"]
            assert abs(alone["value"] - estimate["value"]) < 4 * alone["std_error"]
        # dF/dβ = <U>, and F is concave in β: a tangent lies above it
        energy = reference["averages"]["potential_energy_kT"]["value"]
        for row in reference["temperature_free_energies"]:
            if row["temperature"] != temperature:
                assert row["value"] < (temperature / row["temperature"] - 1) * energy
