"""Clusters as systems: the shipped ones, one's own by a folder, and which particles are equal."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from checks import seeded
from cluster_shapes import icosahedron, mackay_icosahedron, truncated_octahedron
from torch import Tensor

from bgdiff.analysis.exact import exact_profiles
from bgdiff.catalogue import describe_systems
from bgdiff.coordinates import MeanFreeCoordinates
from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.preparation import fit_coordinates
from bgdiff.system_spec import ClusterSpec
from bgdiff.systems import System, load_system
from bgdiff.targets.base import Target

SHAPES = {"dw4": (4, 2), "lj13": (13, 3), "lj38": (38, 3), "lj55": (55, 3)}
STRUCTURES = {"lj13": icosahedron, "lj38": truncated_octahedron, "lj55": mackay_icosahedron}

OWN: dict[str, Any] = {
    "name": "mine",
    "title": "Seven particles",
    "kind": "lennard_jones",
    "particles": 7,
    "observables": {"size": {"radius_of_gyration": {}}},
}


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    content = {name: value for name, value in (OWN | changes).items() if value is not None}
    (folder / "system.yaml").write_text(yaml.safe_dump(content))
    return folder


def random_positions(shape: tuple[int, int], n: int = 50) -> Tensor:
    """From dense to far apart."""
    size = torch.linspace(0.3, 3.0, n, dtype=torch.float64)[:, None, None]
    return size * torch.randn(n, *shape, generator=seeded(1), dtype=torch.float64)


@pytest.mark.parametrize("name", SHAPES)
def test_shipped_clusters(name: str) -> None:
    system = load_system(name)
    target, shape = system.target, SHAPES[name]
    assert isinstance(system.spec, ClusterSpec)
    assert isinstance(target, Target)
    assert target.event_shape == shape
    assert system.temperature == 1.0
    assert system.topology is None
    types = system.particle_types
    assert types is not None
    assert types.dtype == torch.int64
    assert types.tolist() == [0] * shape[0]
    x = random_positions(shape)
    coordinates = fit_coordinates(system, x)
    assert isinstance(coordinates, MeanFreeCoordinates)
    assert coordinates.dim == (shape[0] - 1) * shape[1]
    observables = system.observables(x)
    exchanged = system.observables(x.flip(1))
    for values, others in zip(observables.values(), exchanged.values(), strict=True):
        np.testing.assert_allclose(values, others, atol=1e-12)  # no particle is special
    for difference in system.differences:
        ends = [system.basin(basin, observables) for basin in (difference.initial, difference.final)]
        assert np.array_equal(ends[0], ~ends[1])  # nothing is left out, nothing counts twice
        assert all(end.any() for end in ends)
    assert exact_profiles(system) == {}
    rows = {row["name"]: row for row in describe_systems()}
    assert rows[name]["particles"] == str(shape[0])


def test_energies_are_those_of_the_literature() -> None:
    """By formulas written out once more; the particle numbers of the literature fix all other parameters."""
    x = random_positions((4, 2))
    distances = torch.stack([(x[:, i] - x[:, j]).norm(dim=1) for i in range(4) for j in range(i)])
    expected = (0.9 * (distances - 4) ** 4 - 4 * (distances - 4) ** 2).sum(0)
    torch.testing.assert_close(load_system("dw4").target.energy(x), expected)
    for name, make in STRUCTURES.items():
        x = 1.02 * make()[None]
        r = torch.pdist(x[0])
        centred = x - x.mean(1, keepdim=True)
        expected = 2 * (r**-12 - 2 * r**-6).sum() + 0.5 * centred.square().sum()
        torch.testing.assert_close(load_system(name).target.energy(x)[0], expected)


def test_a_cluster_of_ones_own(tmp_path: Path) -> None:
    system = load_system(write(tmp_path / "a"))
    assert repr(system.target) == "LennardJones(7, 3, epsilon=1, r_min=1, oscillator=1, pairs='twice')"
    parameters = {"epsilon": 2.5, "r_min": 0.8, "oscillator": 0.2, "pairs": "once"}
    system = load_system(write(tmp_path / "b", dimensions=2, parameters=parameters))
    assert repr(system.target) == "LennardJones(7, 2, epsilon=2.5, r_min=0.8, oscillator=0.2, pairs='once')"
    system = load_system(write(tmp_path / "c", kind="multi_double_well", parameters={"offset": 3.0}))
    assert repr(system.target) == "MultiDoubleWell(7, 2, a=0, b=-4, c=0.9, offset=3, pairs='once')"


def test_digests_follow_the_density(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"particles": 8},
        {"dimensions": 2},
        {"parameters": {"epsilon": 1.1}},
        {"parameters": {"oscillator": 0.5}},
        {"parameters": {"pairs": "once"}},
        {"kind": "multi_double_well", "dimensions": 3},
    ]
    systems = [load_system(write(tmp_path / str(i), **change)) for i, change in enumerate(changes)]
    assert len({system.ensemble_digest for system in systems}) == len(changes)
    spelt_out = load_system(
        write(tmp_path / "same", dimensions=3, parameters={"epsilon": 1.0}, title="Other")
    )
    assert spelt_out.ensemble_digest == systems[0].ensemble_digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"particles": 1}, "particles: Input should be greater than or equal to 2"),
        ({"particles": None}, "particles: Field required"),
        ({"dimensions": 4}, "dimensions: Input should be less than or equal to 3"),
        ({"coordinates": "internal"}, "coordinates: Input should be 'mean_free'"),
        ({"parameters": {"oscillator": 0}}, "parameters: oscillator: .* particles evaporate"),
        ({"parameters": {"oscillator": -1}}, "parameters: oscillator: must be greater than 0"),
        ({"parameters": {"epsilon": 0}}, "parameters.epsilon: Input should be greater than 0"),
        ({"parameters": {"sigma": 1}}, "parameters.sigma: there is no such field"),
        ({"parameters": {"pairs": "thrice"}}, "parameters.pairs: Input should be 'once' or 'twice'"),
        ({"kind": "multi_double_well", "parameters": {"c": 0}}, "parameters.c: Input should be greater than"),
        ({"kind": "lennard_jonse"}, "kind: must be one of .*, lennard_jones, multi_double_well"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemDefinitionError, match=message):
        load_system(write(tmp_path / "wrong", **changes))


def test_clusters_are_no_molecules() -> None:
    system = load_system("lj13")
    with pytest.raises(ConfigError, match="is in reduced units"):
        system.at_temperature(300.0)
    with pytest.raises(SystemDefinitionError, match="is not a molecule: it has no force field"):
        _ = system.openmm_system


def test_observables_that_need_a_molecule_are_refused(tmp_path: Path) -> None:
    system = load_system(write(tmp_path / "rmsd", observables={"rmsd": {"rmsd": {}}}))
    with pytest.raises(SystemDefinitionError, match="observables.rmsd: needs a molecule"):
        _ = system.target
    flat = load_system(
        write(tmp_path / "flat", dimensions=2, observables={"q": {"steinhardt": {"l": 6, "cutoff": 1.4}}})
    )
    with pytest.raises(SystemDefinitionError, match="observables.q: the order of bonds needs 3 dimensions"):
        _ = flat.target


def cartesian_molecule(folder: Path, line: str) -> System:
    shutil.copytree(
        load_system("alanine_dipeptide_vacuum").path, folder, ignore=shutil.ignore_patterns("*.dcd")
    )
    text = (folder / "system.yaml").read_text()
    (folder / "system.yaml").write_text(text.replace("coordinates: internal", line))
    return System(folder)


def test_equal_atoms_of_molecules(tmp_path: Path) -> None:
    plain = cartesian_molecule(tmp_path / "none", "coordinates: mean_free")
    every = cartesian_molecule(tmp_path / "all", "coordinates: mean_free\nequal_particles: all")
    alike = cartesian_molecule(tmp_path / "elements", "coordinates: mean_free\nequal_particles: elements")
    assert plain.particle_types is not None
    assert plain.particle_types.tolist() == list(range(22))
    assert every.particle_types is not None
    assert every.particle_types.tolist() == [0] * 22
    types, topology = alike.particle_types, alike.topology
    assert types is not None
    assert topology is not None
    symbols = [atom.element.symbol for atom in topology.atoms]
    assert types.max() + 1 == len(set(symbols))
    for i, one in enumerate(symbols):
        assert [bool(same) for same in types == types[i]] == [one == other for other in symbols]
    assert plain.ensemble_digest == load_system("alanine_dipeptide_vacuum").ensemble_digest
    with pytest.raises(SystemDefinitionError, match="equal_particles: 'all' needs coordinates: mean_free"):
        cartesian_molecule(tmp_path / "wrong", "coordinates: internal\nequal_particles: all")


def test_without_symmetry_there_are_no_types() -> None:
    for name in ("double_well", "many_well_32", "alanine_dipeptide_vacuum"):
        assert load_system(name).particle_types is None
