"""Equilibrium data and references of clusters: two particles by quadrature, four by convolution."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import assert_mean, seeded
from scipy.integrate import quad

from bgdiff import load_system
from bgdiff.data.cluster_engine import EngineCluster, fastest
from bgdiff.data.generate import generate_data
from bgdiff.data.quench import quench
from bgdiff.data.reference import compute_reference
from bgdiff.data.toy_starts import given_starts, random_starts
from bgdiff.data.toy_tempering import toy_ladder_task
from bgdiff.data.validation import degrees_of_freedom, validate, verdicts
from bgdiff.errors import ConfigError, DataError, SystemDefinitionError
from bgdiff.systems import System
from bgdiff.targets.forcefield.kernel import kernel_status
from bgdiff.targets.lennard_jones import LennardJones, lennard_jones
from bgdiff.targets.multi_double_well import MultiDoubleWell

CLUSTERS = ("dw4", "lj13", "lj38", "lj55")

DEFINITION = """
name: pair
title: two particles
kind: {kind}
particles: 2
observables:
  distance: {{distance: [0, 1]}}
basins:
  near: {{observable: distance, intervals: [[0, {border}]]}}
  far: {{observable: distance, intervals: [[{border}, .inf]]}}
free_energy_differences:
  - {{name: apart, initial: near, final: far}}
global_minimum: {minimum}
replica_exchange:
  starts: [random, start.npy]
  t_max: 3
  temperatures: 3
  ladders: 16
  step: {step}
  acceptance: 0.8
  leapfrog_steps: 5
  spacing: 3
  equilibration: 60
  samples: 25
  stored_bits: 14
  interpolation:
    stiffness: 0.5
    rungs: 6
    ladders: 8
    step: {step}
    acceptance: 0.8
    leapfrog_steps: 5
    spacing: 3
    equilibration: 40
    samples: 25
"""


def two_particles(folder: Path, kind: str) -> System:
    values: dict[str, Any] = {
        "lennard_jones": {"border": 1.6, "step": 0.05, "minimum": -1.756},
        "multi_double_well": {"border": 4.0, "step": 0.1, "minimum": -4.444444},
    }[kind]
    text = DEFINITION.format(kind=kind, **values)
    dimensions = 3 if kind == "lennard_jones" else 2
    folder.mkdir()
    (folder / "system.yaml").write_text(text, encoding="utf-8")
    x = np.zeros((1, 2, dimensions))
    x[0, 1, 0] = 2.5
    np.save(folder / "start.npy", x)
    return System(folder)


def exact(system: System, lo: float, hi: float, power: int = 0) -> float:
    """∫ of r^power exp(-u) over the mean-free subspace: ρ = r/√2 is the radius there."""
    dimensions = system.target.event_shape[1]

    def density(r: float) -> float:
        x = torch.zeros(1, 2, dimensions, dtype=torch.float64)
        x[0, 1, 0] = r
        radius = r / math.sqrt(2)
        sphere = 2 * math.pi * radius if dimensions == 2 else 4 * math.pi * radius**2
        return r**power * sphere * math.exp(-float(system.target.energy(x))) / math.sqrt(2)

    return quad(density, lo, hi, limit=200, epsrel=1e-8)[0]


@pytest.fixture(autouse=True)
def few_quenches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgdiff.data.validation._QUENCHED", 8)


@pytest.fixture(scope="module", params=["lennard_jones", "multi_double_well"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> System:
    return two_particles(tmp_path_factory.mktemp("clusters") / "pair", request.param)


def test_reference_agrees_with_quadrature(system: System, tmp_path: Path) -> None:
    reports = []
    out = compute_reference(
        system,
        tmp_path / "reference.json",
        seed=1,
        processes=1,
        progress=lambda *report: reports.append(report),
    )
    content = json.loads(out.read_text())
    border = system.spec.basins["near"].terms[0].intervals[0][1]
    near, far = exact(system, 1e-3, border), exact(system, border, 12)

    def assert_agrees(found: dict[str, float], value: float) -> None:
        assert abs(found["value"] - value) < 4 * found["std_error"], (found, value)

    log_z = content["log_z"]
    assert_agrees(log_z, math.log(near + far))
    assert log_z["std_error"] < 0.1
    for other in log_z["cross_checks"].values():
        assert_agrees(other, math.log(near + far))
    assert log_z["lambdas"][0] == 1
    assert log_z["lambdas"][-1] == 0
    (difference,) = content["free_energy_differences"]
    assert_agrees(difference, math.log(near / far))
    assert len(difference["per_start"]) == 2
    distance = exact(system, 1e-3, border, 1) + exact(system, border, 12, 1)
    assert_agrees(content["averages"]["mean_distance"], distance / (near + far))
    assert_agrees(content["averages"]["population_far"], far / (near + far))
    done = [number for number, _, _ in reports]
    assert done == sorted(done)
    assert done[-1] == reports[-1][1]
    assert not (tmp_path / "reference.json.parts").exists()


def test_data_are_the_equilibrium_and_say_so(system: System, tmp_path: Path) -> None:
    out = generate_data(
        system, tmp_path / "data.npz", seed=2, processes=1, method="parallel-tempering", frames=32 * 25
    )
    data = system.load_data(out)
    assert data.x.shape[0] == 32 * 25
    assert data.x.mean(1).abs().max() < 1e-4
    assert torch.equal(data.x * 2**14, (data.x * 2**14).round())
    r = (data.x[:, 0] - data.x[:, 1]).norm(dim=1).view(32, 25)
    whole = exact(system, 1e-3, 12)
    for power in (1, 2):
        assert_mean((r**power).mean(1), exact(system, 1e-3, 12, power) / whole)

    provenance = json.loads((tmp_path / "data.json").read_text())
    checks = provenance["validation"]
    _, force = system.target.energy_and_force(data.x)
    virial = -(data.x * force).sum((1, 2))
    assert checks["virial"]["expected"] == degrees_of_freedom(system) == system.target.event_shape[1]
    assert checks["virial"]["value"] == pytest.approx(float(virial.mean()))
    assert abs(checks["virial"]["z"]) < 4
    assert checks["virial"]["z"] == pytest.approx(
        (float(virial.mean()) - checks["virial"]["expected"]) / checks["virial"]["std_error"]
    )
    assert set(checks["means"]) == {"energy", "distance"}
    assert len(checks["means"]["distance"]["by_start"]) == 2
    assert checks["means"]["distance"]["value"] == pytest.approx(float(r.mean()))
    assert checks["means"]["distance"]["largest_z"] < 4
    widths = np.diff(checks["energy_histogram"]["edges"])
    assert (widths * checks["energy_histogram"]["density"]).sum() == pytest.approx(1)
    assert provenance["move_acceptance"] == pytest.approx([0.8] * 3, abs=0.12)
    assert len(set(provenance["steps"])) == 3
    first = provenance["heat_capacity"][0]
    energy = system.target.energy(data.x)
    assert first["value"] == pytest.approx(float(energy.var()), rel=0.15)
    assert any(f"{degrees_of_freedom(system)} in equilibrium" in line for line in verdicts(checks))
    assert checks["quenched"]["lowest_energy"] >= checks["quenched"]["global_minimum"] - 1e-3


def test_frames_of_another_temperature_are_told(caplog: pytest.LogCaptureFixture) -> None:
    system = load_system("dw4")
    x = system.load_data().x.view(128, -1, 4, 2)[:32, :40].numpy()
    found = validate(system, 1.02 * x, ["here"] * 16 + ["there"] * 16)
    assert found["virial"]["z"] > 4
    assert "virial: " in caplog.text
    validate(system, np.concatenate([x[:16], 1.02 * x[16:]]), ["here"] * 16 + ["there"] * 16)
    assert "energy: ladders of different starts disagree" in caplog.text


@pytest.mark.skipif(kernel_status().variant is None, reason="no compiled kernel")
def test_engine_is_the_same_function() -> None:
    """Also for particles within the core, in one place, and far apart."""
    cluster = LennardJones(7, 3, epsilon=0.7, r_min=1.3, oscillator=0.3, pairs="once")
    engine = fastest(cluster)
    assert isinstance(engine, EngineCluster)
    x = 1.5 * torch.randn(200, 7, 3, generator=seeded(5), dtype=torch.float64)
    x[0, 0] = x[0, 1]
    x[1, 0] = x[1, 1] + 0.39 * 1.3 / math.sqrt(3)
    x[2, 0] = x[2, 1] + 0.41 * 1.3 / math.sqrt(3)
    x[3] *= 50
    for found, known in zip(engine.energy_and_force(x), cluster.energy_and_force(x), strict=True):
        torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-8)
    assert pickle.loads(pickle.dumps(engine)).energy(x)[5] == engine.energy(x)[5]
    flat = LennardJones(7, 2)
    assert fastest(flat) is flat


def test_random_starts_differ_and_make_sense() -> None:
    target = lennard_jones(13)
    x = random_starts(target, 20, 2.4, 0.02, seeded(1))
    assert x.shape == (20, 13, 3)
    energy = target.energy(x)
    assert (energy < 100).all()
    assert len(energy.unique()) == 20
    assert torch.pdist(x.flatten(1)).min() > 1


def test_starts_are_read_and_refused(tmp_path: Path) -> None:
    x = np.arange(12.0).reshape(1, 4, 3)
    np.savez(tmp_path / "structure.npz", x=x)
    found = given_starts(["random", "structure.npz", [1.0, 2.0, 3.0]], (4, 3), tmp_path)
    assert found[0] is None
    np.testing.assert_array_equal(found[1], x[0])
    np.testing.assert_array_equal(found[2], np.tile([1.0, 2.0, 3.0], (4, 1)))
    with pytest.raises(ValueError, match="missing.npz"):
        given_starts(["missing.npz"], (4, 3), tmp_path)
    with pytest.raises(ValueError, match="each start needs 3 or 12 numbers, not 5"):
        given_starts([[0.0] * 5], (4, 3))
    with pytest.raises(ValueError, match=r"shape \(n, 5, 3\)"):
        given_starts(["structure.npz"], (5, 3), tmp_path)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    system = two_particles(tmp_path / "a", "lennard_jones")
    (system.path / "start.npy").unlink()
    with pytest.raises(SystemDefinitionError, match=r"replica_exchange\.starts: .*start\.npy"):
        toy_ladder_task(system, 0)
    bare = two_particles(tmp_path / "b", "lennard_jones")
    text = (bare.path / "system.yaml").read_text()
    (bare.path / "system.yaml").write_text(text[: text.index("replica_exchange")])
    with pytest.raises(SystemDefinitionError, match="has no 'replica_exchange' section"):
        compute_reference(System(bare.path), tmp_path / "r.json")
    with pytest.raises(ConfigError, match="no length"):
        compute_reference(system, tmp_path / "r.json", length_ns=1.0)
    never = two_particles(tmp_path / "c", "lennard_jones")
    text = (never.path / "system.yaml").read_text().replace("1.6", "11.0").replace("rungs: 6", "rungs: 3")
    (never.path / "system.yaml").write_text(text.replace("samples: 25", "samples: 4"))
    with pytest.raises(
        DataError, match=r"difference apart, ladders that started from random: .*never visited"
    ):
        compute_reference(System(never.path), tmp_path / "r.json", processes=1)


def test_quenching_finds_the_minimum_again() -> None:
    system = load_system("lj13")
    lowest = np.load(system.path / "minimum.npz")["x"]
    shaken = lowest + 0.05 * torch.randn(3, 13, 3, generator=seeded(4)).numpy()
    found = quench(system.target, shaken)
    np.testing.assert_allclose(found.energy, -83.089644, atol=1e-6)
    force = system.target.energy_and_force(torch.from_numpy(found.x))[1]
    assert force.abs().max() < 1e-4


@pytest.mark.parametrize("name", CLUSTERS[1:])
def test_shipped_minima(name: str) -> None:
    """Global minima of the Cambridge Cluster Database, here each pair twice and in a trap."""
    system = load_system(name)
    x = torch.from_numpy(np.load(system.path / "minimum.npz")["x"])
    energy, force = system.target.energy_and_force(x)
    particles = system.target.event_shape[0]
    table = {13: -44.326801, 38: -173.928427, 55: -279.248470}[particles]
    assert float(energy[0]) == pytest.approx(system.spec.global_minimum, abs=1e-6)
    assert force.abs().max() < 1e-5
    alone = quench(lennard_jones(particles, oscillator=0, pairs="once"), x.numpy())
    assert alone.energy[0] == pytest.approx(table, abs=1e-6)


def dw4_log_z(points: int = 96, radii: int = 40) -> float:
    """log Z of DW4 by convolution: with particle 1 at 0 and 2 at distance a, the sums over 3 and 4 are alike.

    Z = 2π ∫ a da e^{-φ(a)} ∫∫ w_a(c) e^{-φ(|c - d|)} w_a(d), w_a(c) = e^{-φ(|c|) - φ(|c - a|)}, on grids
    that a trapezoidal rule of smooth functions makes exact; over the centroid's motion, (D/2) log N less.
    """
    well = MultiDoubleWell(2, 2)

    def boltzmann(distance: np.ndarray) -> np.ndarray:
        x = torch.zeros(distance.size, 2, 2, dtype=torch.float64)
        x[:, 1, 0] = torch.from_numpy(distance.ravel().copy())
        return np.exp(-well.energy(x).numpy().reshape(distance.shape) - 10)

    step = 22.0 / points
    axis = (np.arange(points) - points // 2) * step
    x, y = np.meshgrid(axis, axis, indexing="ij")
    single = boltzmann(np.hypot(x, y))
    kernel = np.fft.rfft2(np.fft.ifftshift(single))
    total = 0.0
    for a in (np.arange(radii) + 0.5) * 8.0 / radii:
        w = single * boltzmann(np.hypot(x - a, y))
        spread = np.fft.irfft2(np.fft.rfft2(w) * kernel, s=w.shape)
        total += 2 * math.pi * a * float(boltzmann(np.array([a]))[0] * (w * spread).sum()) * step**4
    return math.log(total * 8.0 / radii) + 6 * 10 - math.log(4)


def test_dw4_has_the_log_z_of_a_convolution() -> None:
    value = dw4_log_z()
    assert dw4_log_z(112, 45) == pytest.approx(value, abs=1e-4)  # the grid is fine enough
    found = load_system("dw4").reference["log_z"]
    assert abs(found["value"] - value) < 4 * found["std_error"]
    assert found["std_error"] < 0.02


@pytest.mark.parametrize("name", CLUSTERS)
def test_shipped_data(name: str) -> None:
    """The virial identity on the frames, and averages as in the reference."""
    system = load_system(name)
    if system.spec.data is None:
        pytest.skip("comes without data")
    data = system.load_data()
    ladders = int(data.chain.max()) + 1
    x = data.x.view(ladders, -1, *data.x.shape[1:])[:, ::5].flatten(0, 1)
    energy, force = system.target.energy_and_force(x)
    assert_mean(-(x * force).sum((1, 2)).view(ladders, -1).mean(1), degrees_of_freedom(system))
    assert x.mean(1).abs().max() < 1e-4
    if system.spec.reference is not None:
        known = system.reference["averages"]["potential_energy_kT"]
        mean = energy.view(ladders, -1).mean(1)
        error = math.hypot(known["std_error"], float(mean.std()) / math.sqrt(ladders))
        assert abs(float(mean.mean()) - known["value"]) < 4 * error
