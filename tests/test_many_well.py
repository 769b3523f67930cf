"""The many-well: energies, exact free energies, equilibrium data by tempering, the shipped system."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import assert_mean, seeded

from bgdiff.catalogue import describe_systems
from bgdiff.data.generate import generate_data
from bgdiff.data.quadrature import log_z_where, quadrature_reference
from bgdiff.errors import ConfigError, DataError, SystemDefinitionError
from bgdiff.observable_spec import ConditionSpec, ObservableSpec
from bgdiff.systems import System, load_system
from bgdiff.targets.base import Target
from bgdiff.targets.double_well import DoubleWell
from bgdiff.targets.many_well import ManyWell
from bgdiff.targets.openmm import OpenMMTarget

SYSTEM = """
name: three_wells
title: Three wells
kind: many_well
copies: 3
parameters: {a: -0.5, b: -4.0, c: 1.0}
observables:
  x1: {component: [0, 0]}
  y3: {component: [2, 1]}
  right: {count: {axis: 0, intervals: [[0, .inf]]}}
basins:
  first_left: {observable: x1, intervals: [[-.inf, 0]]}
  first_right: {observable: x1, intervals: [[0, .inf]]}
  one: {observable: right, intervals: [[1, 2]]}
  all: {observable: right, intervals: [[3, 4]]}
free_energy_differences:
  - {name: first, initial: first_left, final: first_right}
  - {name: counts, initial: one, final: all}
replica_exchange:
  starts: [[-1.4, 0], [1.4, 0, 1.4, 0, 1.4, 0]]
  t_max: 4
  temperatures: 4
  ladders: 32
  step: 0.15
  leapfrog_steps: 5
  spacing: 5
  equilibration: 100
"""


def write_system(folder: Path, old: str = "", new: str = "") -> System:
    folder.mkdir()
    assert old in SYSTEM
    (folder / "system.yaml").write_text(SYSTEM.replace(old, new, 1))
    return System(folder)


def test_energy_is_the_sum_over_copies_and_force_its_gradient() -> None:
    target, well = ManyWell(5, 0.7, -3.0, 1.2), DoubleWell(0.7, -3.0, 1.2)
    assert isinstance(target, Target)
    x = torch.randn(20, 5, 2, generator=seeded(1), dtype=torch.float64).requires_grad_()
    energy, force = target.energy_and_force(x)
    torch.testing.assert_close(energy, sum(well.energy(x[:, n : n + 1]) for n in range(5)))
    torch.testing.assert_close(target.energy(x), energy)
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    torch.testing.assert_close(force, -gradient)


def test_nonsense_is_refused() -> None:
    with pytest.raises(SystemDefinitionError, match="at least one copy"):
        ManyWell(0)
    with pytest.raises(SystemDefinitionError, match="c > 0"):
        ManyWell(2, c=0.0)
    with pytest.raises(DataError, match=r"must have shape \(B, 3, 2\), not \(4, 2, 2\)"):
        ManyWell(3).energy(torch.zeros(4, 2, 2))


def test_published_normaliser() -> None:
    assert ManyWell(16).log_z() == pytest.approx(164.6957, abs=1e-4)  # as in FAB, Midgley et al. 2023
    assert ManyWell(1, 1.0, -4.0, 1.0).log_z() == pytest.approx(DoubleWell(1.0, -4.0, 1.0).log_z())


def condition(name: str, *intervals: tuple[float, float]) -> ConditionSpec:
    return ConditionSpec(observable=name, intervals=list(intervals))


def test_free_energies_of_regions_against_a_grid() -> None:
    """Two copies, integrated by brute force over (x_0, x_1) and over one y."""
    target = ManyWell(2, -0.3, -2.0, 0.8)
    fields: dict[str, Any] = {
        "x0": {"component": [0, 0]},
        "x1": {"component": [1, 0]},
        "y1": {"component": [1, 1]},
        "right": {"count": {"axis": 0, "intervals": [[0.25, math.inf]]}},
        "up": {"count": {"axis": 1, "intervals": [[1.0, 2.0]]}},
    }
    specs = {name: ObservableSpec.model_validate(content) for name, content in fields.items()}
    n, h = 1600, 8 / 1600
    x = -4 + h * (np.arange(n) + 0.5)  # midpoints: region boundaries fall on cell edges
    density = np.exp(-(-0.3 * x - 2.0 * x**2 + 0.8 * x**4))
    both = np.outer(density, density) * h**2
    y = -8 + 16 / 3200 * (np.arange(3200) + 0.5)
    gauss = np.exp(-0.5 * y**2) * 16 / 3200
    whole_y = math.sqrt(2 * math.pi)

    def inside(values: np.ndarray, *intervals: tuple[float, float]) -> np.ndarray:
        return np.logical_or.reduce([(lo <= values) & (values < hi) for lo, hi in intervals])

    right = x >= 0.25
    number = right[:, None].astype(int) + right[None]
    p_up = gauss[inside(y, (1, 2))].sum() / whole_y
    cases = [
        ([], both.sum() * whole_y**2),
        ([condition("x0", (-1, 0.5))], both[inside(x, (-1, 0.5))].sum() * whole_y**2),
        ([condition("x0", (-1, 0.5), (0, 2)), condition("x1", (0, 1))],  # overlapping intervals count once
         both[np.ix_(inside(x, (-1, 2)), inside(x, (0, 1)))].sum() * whole_y**2),
        ([condition("x1", (-math.inf, 0)), condition("y1", (1, 3), (-2, -1))],
         both[:, x < 0].sum() * whole_y * gauss[inside(y, (1, 3), (-2, -1))].sum()),
        ([condition("right", (1, 2))], both[number == 1].sum() * whole_y**2),
        ([condition("right", (0.5, 9))], both[number >= 1].sum() * whole_y**2),
        ([condition("up", (2, 3))], both.sum() * whole_y**2 * p_up**2),
    ]  # fmt: skip
    for conditions, expected in cases:
        assert log_z_where(target, conditions, specs) == pytest.approx(math.log(expected), abs=2e-4)
    assert log_z_where(target, [condition("right", (3, 4))], specs) == -math.inf
    with pytest.raises(ValueError, match="of one count"):
        log_z_where(target, [condition("right", (1, 2)), condition("x0", (0, 1))], specs)


def test_far_tails_keep_their_digits() -> None:
    specs = {"y": ObservableSpec.model_validate({"component": [0, 1]})}
    well = DoubleWell()
    upper, lower = (log_z_where(well, [condition("y", part)], specs) for part in ((9, 12), (-12, -9)))
    assert upper == pytest.approx(lower, abs=1e-10)
    assert upper - well.log_z() == pytest.approx(math.log(1.1285884059538324e-19), rel=1e-10)  # Φ(-9)


def test_basins_that_cannot_be_integrated_are_named(tmp_path: Path) -> None:
    both = "[{observable: x1, intervals: [[-.inf, 0]]}, {observable: right, intervals: [[1, 2]]}]"
    system = write_system(
        tmp_path / "a", "{observable: x1, intervals: [[-.inf, 0]]}", f"{{conditions: {both}}}"
    )
    with pytest.raises(SystemDefinitionError, match=r"basins\.first_left: only .* can be integrated"):
        quadrature_reference(system)


def test_tempering_fills_every_mode_in_its_proportion(tmp_path: Path) -> None:
    system = write_system(tmp_path / "wells")
    out = generate_data(
        system, tmp_path / "data.npz", seed=3, processes=1, method="parallel-tempering", frames=3200
    )
    data = system.load_data(out)
    assert data.x.shape == (3200, 3, 2)
    by_ladder = data.x.view(64, 50, 3, 2)
    reference = quadrature_reference(system)
    odds = math.exp(-reference["free_energy_differences"][0]["value"])
    p = odds / (1 + odds)
    right = by_ladder[..., 0] > 0
    assert_mean(right.double().mean(1), p)  # each of the copies
    for mode in itertools.product((False, True), repeat=3):
        exact = math.prod(p if side else 1 - p for side in mode)
        assert_mean((right == torch.tensor(mode)).all(2).double().mean(1), exact)
    assert_mean((by_ladder[..., 1] ** 2).mean(1), 1.0)
    _, force = system.target.energy_and_force(data.x)
    assert_mean(-(data.x * force).sum((1, 2)).view(64, 50).mean(1), 6.0)  # the virial identity

    provenance = json.loads((tmp_path / "data.json").read_text())
    assert provenance["chain_lengths"] == [50] * 64
    assert len(provenance["swap_acceptance"]) == 3
    assert min(provenance["round_trips"]) > 0
    assert provenance["convergence"]["x1"]["rhat"] < 1.2
    assert provenance["command"].endswith("--seed 3 --method parallel-tempering --frames 3200")


def test_an_interrupted_generation_goes_on_to_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bgdiff.data.toy_tempering

    monkeypatch.setattr(bgdiff.data.toy_tempering, "_STEPS_PER_CHUNK", 32_000)  # ten rounds of a group
    system = write_system(tmp_path / "wells", "equilibration: 100", "equilibration: 25")
    options: dict[str, Any] = {"seed": 1, "processes": 1, "method": "parallel-tempering", "frames": 1500}
    whole = generate_data(system, tmp_path / "whole.npz", **options)

    def stop(done: int, total: int, text: str = "") -> None:
        assert total > 6
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_data(system, tmp_path / "parts.npz", progress=stop, **options)
    parts = generate_data(system, tmp_path / "parts.npz", **options)
    assert whole.read_bytes() != b""
    np.testing.assert_array_equal(np.load(whole)["x"], np.load(parts)["x"])


def test_settings_without_sense_are_refused(tmp_path: Path) -> None:
    cases = [
        ("t_max: 4", "t_max: 1", "replica_exchange.t_max"),
        ("[-1.4, 0]", "[-1.4, 0, 1]", r"replica_exchange\.starts: each start needs 2 or 6 numbers, not 3"),
        ("copies: 3", "copies: 0", "copies"),
        ("copies: 3", "", "copies: Field required"),
    ]
    for number, (old, new, message) in enumerate(cases):
        with pytest.raises(SystemDefinitionError, match=message):
            generate_data(
                write_system(tmp_path / str(number), old, new),
                tmp_path / "x.npz",
                method="parallel-tempering",
            )
    well = load_system("double_well")
    with pytest.raises(SystemDefinitionError, match="has no 'replica_exchange' section"):
        generate_data(well, tmp_path / "x.npz", method="parallel-tempering")
    with pytest.raises(ConfigError, match="method md: is not one for a toy density"):
        generate_data(well, tmp_path / "x.npz", method="md")
    with pytest.raises(SystemDefinitionError, match="is not a molecule"):
        _ = well.openmm_system
    assert not isinstance(well.target, OpenMMTarget)


def test_digests_know_the_number_of_copies(tmp_path: Path) -> None:
    three, four = write_system(tmp_path / "a"), write_system(tmp_path / "b", "copies: 3", "copies: 4")
    assert three.ensemble_digest != four.ensemble_digest


def test_it_is_listed_with_its_particles() -> None:
    rows = {row["name"]: row for row in describe_systems()}
    assert (rows["many_well_32"]["particles"], rows["many_well_32"]["frames"]) == ("16", "32000")


def test_shipped_data_are_the_equilibrium() -> None:
    """Every copy's population, its moments, and the number of right wells, with errors from the ladders."""
    system = load_system("many_well_32")
    data = system.load_data()
    ladders = int(data.chain.max()) + 1
    x = data.x.view(ladders, -1, 16, 2)
    odds = math.exp(-system.reference["free_energy_differences"][0]["value"])
    p = odds / (1 + odds)
    right = (x[..., 0] > 0).double()
    assert_mean(right.mean(1), p)
    assert_mean((right.sum(2) - 16 * p).square().mean(1), 16 * p * (1 - p))
    assert_mean((x[..., 1] ** 2).mean(1), 1.0)
    grid = np.linspace(-4, 4, 20_001)
    density = np.exp(-(-0.5 * grid - 6 * grid**2 + grid**4) - 12)
    for power in (1, 2):
        assert_mean((x[..., 0] ** power).mean(1), float(np.average(grid**power, weights=density)))
    _, force = system.target.energy_and_force(data.x)
    assert_mean(-(data.x * force).sum((1, 2)).view(ladders, -1).mean(1), 32.0)
