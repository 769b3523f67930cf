"""Alchemical references: known differences, estimators on harmonic wells, refusals, resuming."""

import json
import pickle
import shutil

import numpy as np
import pytest
from molecules import switch_folder, twist_difference, twist_folder, twist_log_z

from bgdiff.data.alchemical_analysis import bar_chain, cross_checks, group_mbar, integrate, one_step
from bgdiff.data.alchemical_reference import compute_transformation
from bgdiff.data.alchemy import alchemical_task, find_transformation
from bgdiff.errors import ConfigError, DataError, SystemDefinitionError
from bgdiff.same_atoms import check_same_atoms
from bgdiff.systems import load_system

SOFT = {"bond": 6e4, "angle": 300.0, "tilt": 0.5}
WAY = """
transformations:
  - {to: soft, lambdas: 4, starts: [{phi: 180}, {phi: 0}, {phi: 180}, {phi: 0}], ladders: 8,
     reference: to.json, length_ns: 0.006, equilibration_ns: 0.001,
     swap_ps: 0.1, spacing_ps: 0.2, step_fs: 4.0}
"""


def two_folders(folder, text=WAY):
    hard, soft = twist_folder(folder / "hard"), twist_folder(folder / "soft", **SOFT)
    with open(hard / "system.yaml", "a") as stream:
        stream.write(text)
    return hard, soft


def transform(first, second, out, **options):
    return json.loads(compute_transformation(first, second, out, processes=1, **options).read_text())


def assert_near(estimate, exact):
    """Within four errors. Four groups know their own error only roughly."""
    assert estimate["std_error"] < 0.1
    assert abs(estimate["value"] - exact) < 4 * np.hypot(estimate["std_error"], 0.02)


def test_a_known_difference_between_potentials(tmp_path):
    hard, soft = map(load_system, two_folders(tmp_path))
    exact = twist_log_z() - twist_log_z(**SOFT)
    assert abs(exact) > 0.5
    result = transform(hard, soft, hard.path / "to.json", seed=1)
    found = result["free_energy_difference"]
    assert_near(found, exact)
    assert found["value"] == pytest.approx(np.mean(found["per_group"]))
    checks = result["cross_checks"]
    for check in ("mbar_decorrelated", "bar_chain", "thermodynamic_integration"):
        assert_near(checks[check], exact)
    assert checks["thermodynamic_integration"]["quadrature_error"] < 0.05
    assert_near(checks["ends_alone"]["bar"], exact)
    overlap = np.array(checks["mbar_decorrelated"]["overlap_matrix"])
    assert overlap.sum(axis=1) == pytest.approx(np.ones(4))
    assert 0.05 < checks["mbar_decorrelated"]["smallest_overlap_of_neighbours"] < 0.5
    assert len(result["free_energy_by_lambda"]) == 4
    for end, tilt in (("initial", 1.5), ("final", SOFT["tilt"])):
        (basins,) = result["basin_differences"][end]
        assert_near(basins, twist_difference(tilt=tilt))
    assert result["openmm"]["mean_deviation"] < 1e-3
    assert 0 < result["openmm"]["mean_deviation"] <= result["openmm"]["largest_deviation"]
    assert all(0.8 < rate < 1 for rate in result["move_acceptance"])
    assert all(0.3 < rate < 1 for rate in result["swap_acceptance"])
    assert min(result["round_trips"]) > 0
    assert result["convergence"]["final"]["energy_difference"]["rhat"] < 1.1
    assert result["total_ns"] == pytest.approx(4 * 8 * 4 * 0.006)
    assert result["command"] == "bgdiff reference hard --to soft --seed 1"
    assert hard.reference_to(soft) == result
    assert not (hard.path / "to.json.parts").exists()


def test_a_known_difference_between_temperatures(tmp_path):
    folder = twist_folder(tmp_path / "twist")
    text = (folder / "system.yaml").read_text()
    text = text.replace("ladders: 32", "ladders: 4").replace(
        "equilibration_ns: 0.004", "equilibration_ns: 0.001"
    )
    (folder / "system.yaml").write_text(text)  # its replica_exchange serves: there are no transformations
    system = load_system(folder)
    hot = system.at_temperature(345.0)
    result = transform(system, hot, tmp_path / "out.json", length_ns=0.004)
    assert_near(result["free_energy_difference"], twist_log_z() - twist_log_z(temperature=345.0))
    assert result["final"]["temperature"] == 345
    assert len(result["lambdas"]) == 8
    assert (
        result["command"]
        == "bgdiff reference twist --to twist --seed 0 --to-temperature 345 --length-ns 0.004"
    )


def test_openmm_alone_finds_it_too(tmp_path):
    text = WAY.replace("0.006", "0.002").replace("lambdas: 4", "lambdas: 2").replace("0.001,", "0.0005,")
    hard, soft = map(load_system, two_folders(tmp_path, text))
    result = transform(hard, soft, tmp_path / "out.json", engine="openmm")
    error = result["free_energy_difference"]["std_error"]
    assert 0 < error < 0.3
    exact = twist_log_z() - twist_log_z(**SOFT)
    assert abs(result["free_energy_difference"]["value"] - exact) < 4 * np.hypot(error, 0.1)
    assert result["ladders_per_group"] == 1
    assert result["evaluator"].startswith("OpenMM")
    assert result["command"].endswith("--engine openmm")


def test_an_interrupted_transformation_resumes_to_the_same_values(tmp_path):
    hard, soft = map(load_system, two_folders(tmp_path, WAY.replace("ladders: 8", "ladders: 2")))

    def interrupt(done, total, text=""):
        if done == 3:
            raise KeyboardInterrupt

    options = {"length_ns": 0.002}
    whole = transform(hard, soft, tmp_path / "whole.json", **options)
    with pytest.raises(KeyboardInterrupt):
        transform(hard, soft, tmp_path / "cut.json", progress=interrupt, **options)
    assert not (tmp_path / "cut.json").exists()
    with pytest.raises(ConfigError, match=r"other settings \(length_ns"):
        transform(hard, soft, tmp_path / "cut.json", length_ns=0.003)
    assert transform(hard, soft, tmp_path / "cut.json", **options) == whole
    with pytest.raises(ConfigError, match="exists already"):
        transform(hard, soft, tmp_path / "cut.json", **options)


def test_a_task_goes_to_other_processes(tmp_path):
    hard, soft = map(load_system, two_folders(tmp_path, WAY.replace("ladders: 8", "ladders: 1")))
    task = alchemical_task(hard, soft, find_transformation(hard, soft), 3)
    sent = pickle.loads(pickle.dumps(task))
    assert sent.fingerprint() == task.fingerprint()
    for one, two in zip(task.advance(0, 0, task.start(0)), sent.advance(0, 0, sent.start(0)), strict=True):
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("warm", [False, True])
def test_settings_come_from_the_section_or_from_replica_exchange(tmp_path, warm):
    hard, soft = map(load_system, two_folders(tmp_path))
    other = soft.at_temperature(320) if warm else soft
    settings = find_transformation(hard, other)
    assert (settings.ladders, len(settings.lambdas)) == ((32, 8) if warm else (8, 4))
    assert settings.temperature == (320 if warm else None)


def test_estimators_on_harmonic_wells():
    """u_a = x²/2, u_b = k (x - d)²/2 + c: every mixture is Gaussian, samples are independent and exact."""
    k, d, c, lambdas = 4.0, 0.8, -3.0, np.linspace(0, 1, 5)
    exact = c + np.log(k) / 2
    stiffness = 1 + lambdas * (k - 1)
    values: dict[str, list[float]] = {
        name: [] for name in ("mbar", "bar", "ti", "forward", "reverse", "mean")
    }
    energies = []
    for repeat in range(40):
        noise = np.random.default_rng(repeat).normal(size=(100, 3, 5))
        x = lambdas * k * d / stiffness + noise / np.sqrt(stiffness)
        energy = np.stack([x**2 / 2, k * (x - d) ** 2 / 2 + c], axis=-1)
        energies.append(energy)
        free_energies, log_weights = group_mbar(energy, lambdas)
        assert np.exp(log_weights).sum(axis=(1, 2, 3)) == pytest.approx(np.ones(2))
        values["mbar"].append(free_energies[-1] - exact)
        values["mean"].append((np.exp(log_weights[1]) * x).sum() - d)
        values["bar"].append(bar_chain(energy, lambdas) - exact)
        values["ti"].append(integrate(energy, lambdas)[0] - exact)
        for name in ("forward", "reverse"):
            values[name].append(one_step(energy)[name] - exact)
    # Exponential averages of 300 works are biased, and five values of λ leave an error of the quadrature.
    allowance = {"forward": 0.02, "reverse": 0.3, "ti": integrate(energies[0], lambdas)[1]}
    for name, deviations in values.items():
        error = np.std(deviations, ddof=1) / np.sqrt(len(deviations))
        assert abs(np.mean(deviations)) < 4 * error + allowance.get(name, 0.0), name
    assert np.std(values["mbar"]) < np.std(values["forward"])
    pooled = cross_checks(energies, lambdas)["mbar_decorrelated"]
    assert pooled["statistical_inefficiency"] == pytest.approx(np.ones(5), abs=0.1)
    assert abs(pooled["value"] - exact) < 4 * pooled["std_error"]
    assert np.std(values["mbar"], ddof=1) / np.sqrt(40) == pytest.approx(pooled["std_error"], rel=0.6)


def test_atoms_that_differ_are_named(tmp_path):
    hard, soft = two_folders(tmp_path)
    check_same_atoms(load_system(hard), load_system(soft))
    topology, potential = (soft / "topology.pdb").read_text(), (soft / "system.xml").read_text()

    def refused(message):
        with pytest.raises(SystemDefinitionError, match=message) as error:
            transform(load_system(hard), load_system(soft), tmp_path / "out.json")
        assert "hard and soft do not have the same atoms" in str(error.value)

    (soft / "topology.pdb").write_text(topology.replace(" C3 ", " CX "))
    refused(r"atom 2 .* is TW1-C3 \(C\) in the first and TW1-CX \(C\) in the second")
    (soft / "topology.pdb").write_text(
        topology.replace("C2 ", "tmp").replace("C3 ", "C2 ").replace("tmp", "C3 ")
    )
    refused("atom 1 .* the same atoms in another order")
    (soft / "topology.pdb").write_text(
        "\n".join(line[:76] + " N" + line[78:] if " C4 " in line else line for line in topology.splitlines())
    )
    refused(r"atom 3 .* is TW1-C4 \(C\) in the first and TW1-C4 \(N\) in the second")
    (soft / "topology.pdb").write_text(topology)
    (soft / "system.xml").write_text(potential.replace('mass="12"', 'mass="13"', 1))
    refused("atom 0 .* has a mass of 12 in the first and 13 dalton in the second")
    shutil.rmtree(soft)
    switch_folder(soft)
    text = (soft / "system.yaml").read_text()
    (soft / "system.yaml").write_text(text.replace("name: switch", "name: soft"))
    refused("atom 0 .* is TW1-C1")
    with pytest.raises(SystemDefinitionError, match="double_well is not a molecule"):
        check_same_atoms(load_system(hard), load_system("double_well"))


def test_a_missing_atom_is_named(tmp_path):
    import mdtraj

    hard, soft = two_folders(tmp_path)
    mdtraj.load(soft / "topology.pdb").atom_slice(range(3)).save(soft / "topology.pdb")
    with pytest.raises(SystemDefinitionError, match="4 and 3; atom 3 .* of the larger is TW1-C4"):
        check_same_atoms(load_system(hard), load_system(soft))


def test_transformations_that_make_no_sense(tmp_path):
    hard, soft = two_folders(tmp_path)
    first, second = load_system(hard), load_system(soft)
    with pytest.raises(ConfigError, match="there is no difference"):
        transform(first, load_system(hard), tmp_path / "a.json")
    with pytest.raises(ConfigError, match="length of a simulation must be positive"):
        transform(first, second, tmp_path / "a.json", length_ns=-1.0)
    with pytest.raises(ConfigError, match="positive number of kelvin, not -3"):
        first.at_temperature(-3)
    with pytest.raises(ConfigError, match="double_well is in reduced units"):
        load_system("double_well").at_temperature(340)
    text = (soft / "system.yaml").read_text()
    (soft / "system.yaml").write_text(text[: text.index("replica_exchange")])
    with pytest.raises(SystemDefinitionError, match="neither an entry of 'transformations' to hard"):
        transform(load_system(soft), first, tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lambdas: 4", "lambdas: 1", "transformations.0.lambdas: needs at least 2"),
        ("lambdas: 4", "lambdas: [0, 0.5, 0.4, 1]", "transformations.0.lambdas: must ascend from 0"),
        ("lambdas: 4", "lambdas: [0.1, 1]", "transformations.0.lambdas: must ascend from 0"),
        ("{phi: 180}", "{chi: 180}", "transformations.0.starts.0: 'chi' is not a torsion"),
        ("to: soft, ", "", "transformations.0.to: Field required"),
        ("to: soft", "to: soft, temperature: 0", "transformations.0.temperature: .* greater than 0"),
        ("to: soft", "to: soft, t_max: 900", "transformations.0.t_max: there is no such field"),
    ],
)
def test_wrong_fields_are_named(tmp_path, old, new, message):
    text = WAY.replace(old, new, 1)
    hard, _ = two_folders(tmp_path, text)
    with pytest.raises(SystemDefinitionError, match=message):
        load_system(hard)


def test_two_ways_to_the_same_end(tmp_path):
    hard, _ = two_folders(tmp_path, WAY + WAY[WAY.index("  -") :])
    with pytest.raises(SystemDefinitionError, match="transformations.1: there is another one to 'soft'"):
        load_system(hard)


def test_references_that_are_outdated_are_refused(tmp_path):
    hard, soft = two_folders(tmp_path, WAY + "references_at: {340: at_340.json}\n")
    first, second = load_system(hard), load_system(soft)
    assert second.reference_to(first) == {}
    assert first.reference_to(second.at_temperature(310)) == {}
    with pytest.raises(SystemDefinitionError, match="is missing .* bgdiff reference hard --to soft$"):
        first.reference_to(second)
    content = {
        "initial": {"question_digest": first.question_digest},
        "final": {"ensemble_digest": second.ensemble_digest},
    }
    (hard / "to.json").write_text(json.dumps(content))
    assert first.reference_to(second) == content
    content["final"]["ensemble_digest"] = "another"
    (hard / "to.json").write_text(json.dumps(content))
    with pytest.raises(SystemDefinitionError, match=r"computed for another potential.* \(final\)"):
        first.reference_to(second)
    warm = first.at_temperature(340)
    assert first.at_temperature(300).temperature == first.temperature
    assert warm.ensemble_digest != first.ensemble_digest
    assert warm.spec.data is None
    assert first.at_temperature(350).reference == {}
    with pytest.raises(SystemDefinitionError, match="bgdiff reference hard --temperature 340"):
        _ = warm.reference
    (hard / "at_340.json").write_text(json.dumps({"question_digest": warm.question_digest}))
    assert warm.at_temperature(340).reference == {"question_digest": warm.question_digest}


def test_an_engine_that_openmm_does_not_confirm_is_told(tmp_path, monkeypatch):
    from bgdiff.targets import forcefield

    hard, soft = map(load_system, two_folders(tmp_path, WAY.replace("ladders: 8", "ladders: 2")))
    exact = forcefield.ForceFieldTarget.energy
    monkeypatch.setattr(
        forcefield.ForceFieldTarget,
        "energy",
        lambda self, x: exact(self, x) * (1.3 if self.tables.n_atoms == 4 else 1),
    )
    with pytest.raises(DataError, match=r"are .* kT from OpenMM's on average"):
        transform(hard, soft, tmp_path / "out.json", length_ns=0.002)


def test_the_shipped_difference_between_vacuum_and_water():
    vacuum, water = map(load_system, ("alanine_dipeptide_vacuum", "alanine_dipeptide_obc1"))
    result = vacuum.reference_to(water)
    found, checks = result["free_energy_difference"], result["cross_checks"]
    assert found["std_error"] <= 0.02
    settings = vacuum.transformation_to(water).model_dump(mode="json", exclude={"reference"})
    assert {key: result["settings"][key] for key in settings} == settings
    assert checks["thermodynamic_integration"]["quadrature_error"] < 0.01
    assert checks["mbar_decorrelated"]["smallest_overlap_of_neighbours"] > 0.1
    others = [checks[key] for key in ("mbar_decorrelated", "bar_chain", "thermodynamic_integration")]
    for check in [*others, checks["ends_alone"]["bar"]]:
        assert abs(check["value"] - found["value"]) < 4 * np.hypot(check["std_error"], found["std_error"])
    assert result["openmm"]["largest_deviation"] < 1e-3
    for end, system in (("initial", vacuum), ("final", water)):
        assert all(item["rhat"] < 1.01 for item in result["convergence"][end].values())
        (basins,), (tempering,) = (
            result["basin_differences"][end],
            system.reference["free_energy_differences"],
        )
        error = np.hypot(basins["std_error"], tempering["std_error"])
        assert abs(basins["value"] - tempering["value"]) < 4 * error
