"""Samples beside a reference: floors, weights, chains of the reference, and what is left out."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from checks import seeded
from torch import Tensor

from bgdiff.analysis.comparison import Comparison, compare
from bgdiff.analysis.results import ReferenceComparison
from bgdiff.errors import DataError
from bgdiff.systems import System, load_system

ALL = ["energy_w2", "distance_w2", "distance_tvd", "configuration_w2", "configuration_w2_one_pass"]


@pytest.fixture(scope="module")
def dw4() -> System:
    return load_system("dw4")


def draw(n: int, width: float, seed: int) -> Tensor:
    """Not from the target: nothing here needs it to be."""
    return width * torch.randn(n, 4, 2, generator=seeded(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def same(dw4: System) -> Comparison:
    return compare(dw4, draw(1000, 2.0, 1), draw(1200, 2.0, 2), n_configurations=80)


def test_samples_of_the_reference_are_at_the_floor(same: Comparison) -> None:
    assert [metric.name for metric in same.metrics] == ALL
    assert (same.n_samples, same.n_reference, same.n_chains) == (1000, 1200, 1)
    for metric in same.metrics:
        assert metric.n == (80 if "configuration" in metric.name else 600)
        assert metric.n_effective == metric.n
        assert metric.unweighted is None
        assert abs(metric.value - metric.floor) < 4 * np.hypot(metric.value_std, metric.floor_std)
        assert 0.5 < metric.value / metric.floor < 2
    assert [metric.unit for metric in same.metrics] == ["kT", "reduced", "", "reduced", "reduced"]
    assert same["configuration_w2"].value < same["configuration_w2_one_pass"].value


def test_other_samples_are_above_it(dw4: System, same: Comparison) -> None:
    found = compare(dw4, draw(1000, 2.4, 1), draw(1200, 2.0, 2), n_configurations=80)
    for name in ALL:
        assert found[name].value > found[name].floor + 4 * found[name].floor_std, name
        assert found[name].floor == same[name].floor  # that of the reference alone


def test_weights_bring_samples_to_the_floor(dw4: System) -> None:
    x = draw(4000, 2.3, 3)
    weights = torch.exp(x.square().sum((1, 2)) * (0.5 / 2.3**2 - 0.5 / 2.0**2))
    found = compare(dw4, x, draw(1000, 2.0, 4), 5.0 * weights, n_configurations=80)
    for name in ALL[:4]:
        metric = found[name]
        assert metric.unweighted is not None
        assert metric.value < 0.85 * metric.unweighted
        assert metric.value < metric.floor + 4 * metric.floor_std
    assert found["energy_w2"].n == 500
    assert found["energy_w2"].n_effective == pytest.approx(500, rel=0.1)  # more than 500 were drawn
    few = np.where(np.arange(4000) % 500, 0.0, 1.0)  # eight samples have all the weight
    assert compare(dw4, x, draw(1000, 2.0, 4), few, n=4000, n_configurations=40)[
        "configuration_w2"
    ].n_effective == pytest.approx(8)


def test_rows_that_do_not_count_change_nothing(dw4: System) -> None:
    x, reference = draw(300, 2.0, 5), draw(300, 2.0, 6)
    broken = torch.cat([x, torch.full((4, 4, 2), torch.nan, dtype=torch.float64)])
    energy = torch.cat([dw4.target.energy(x), torch.full((4,), torch.inf, dtype=torch.float64)])
    expected = compare(dw4, x, reference, n_configurations=20)
    assert compare(dw4, broken, reference.numpy(), energy=energy, n_configurations=20) == expected


def test_floors_know_how_well_chains_agree(dw4: System) -> None:
    reference = torch.cat([draw(200, width, 7) for width in (1.8, 2.2, 1.9, 2.1)])
    chain = np.repeat([3, 1, 7, 2], 200)
    apart = compare(dw4, draw(500, 2.0, 8), reference, reference_chain=chain, n_configurations=20)
    mixed = compare(dw4, draw(500, 2.0, 8), reference, n_configurations=20)
    assert (apart.n_chains, mixed.n_chains) == (4, 1)
    assert apart["energy_w2"].n == mixed["energy_w2"].n == 400
    assert apart["distance_w2"].floor > 2 * mixed["distance_w2"].floor


def test_particles_in_a_field_have_energies_only() -> None:
    system = load_system("double_well")
    x = torch.randn(100, 1, 2, generator=seeded(9), dtype=torch.float64)
    found = compare(system, x[:50], x[50:])
    assert [metric.name for metric in found.metrics] == ["energy_w2"]


def test_a_molecule_is_no_mirror_image_and_has_nanometres() -> None:
    system = load_system("alanine_dipeptide_vacuum")
    x = system.load_data().x[:120]
    found = compare(system, x[:60], x[60:], n_configurations=10)
    assert [metric.name for metric in found.metrics] == ALL[:4]
    assert found["distance_w2"].unit == "nm"
    mirrored = compare(system, x[:60] * torch.tensor([1.0, 1.0, -1.0]), x[60:], n_configurations=10)
    assert mirrored["configuration_w2"].value > 2 * found["configuration_w2"].value
    assert mirrored["distance_w2"].value == pytest.approx(found["distance_w2"].value)


def test_it_is_json_that_results_hold(same: Comparison) -> None:
    content = json.loads(json.dumps(same.to_dict()))
    model = ReferenceComparison.model_validate(content)
    assert model.metrics[1].value == same["distance_w2"].value
    assert model.model_dump(mode="json") == content
    assert {field.name for field in dataclasses.fields(same)} == set(content)


def test_what_cannot_be_compared_is_refused(dw4: System) -> None:
    x = draw(40, 2.0, 0)
    with pytest.raises(DataError, match="too few to compare"):
        compare(dw4, x[:5], x)
    with pytest.raises(DataError, match="too few to compare"):
        compare(dw4, x, x, reference_chain=[0] * 35 + [1] * 5)
    with pytest.raises(DataError, match="not all zero"):
        compare(dw4, x, x, np.zeros(40))
    with pytest.raises(DataError, match=r"samples: an array of shape \(3,\)"):
        compare(dw4, x, x, np.ones(3))
    with pytest.raises(DataError, match=r"reference: expected conformations \(n, 4, 2\)"):
        compare(dw4, x, x[:, :3])
    with pytest.raises(DataError, match=r"energies of shape \(3,\)"):
        compare(dw4, x, x, energy=np.ones(3))
