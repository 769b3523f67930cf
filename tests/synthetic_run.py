"""Run directories as a real run leaves them, made in a second from samples with known answers."""

import json
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
from scipy.spatial.transform import Rotation

from bgdiff.analysis.chains import ChainRecord
from bgdiff.analysis.cluster_record import ClusterRecord, distance_bins, distances_of_data
from bgdiff.analysis.exact import exact_profiles
from bgdiff.analysis.profiles import ExactProfile
from bgdiff.analysis.results import (
    ReferenceComparison,
    ReferenceDistance,
    Results,
    VirialCheck,
    write_results,
)
from bgdiff.analysis.summarise import summarise
from bgdiff.conformations import conformation_writer, save_structure, topology_of
from bgdiff.io import write_json
from bgdiff.systems import System, load_system

Arrays = dict[str, np.ndarray]

FACTS: dict[str, Any] = {
    "preset": "standard",
    "seed": 7,
    "bgdiff_version": "0.1.0",
    "target_evaluations": 52_000,
    "timings": {"train": 372.4, "sample": 45.2, "reweight": 8.1},
    "versions": {"python": "3.11.9", "numpy": "2.4.6", "torch": "2.13.0"},
}


def changed(results: Results, **changes: object) -> Results:
    """The same results but for some fields."""
    return Results.model_validate(results.model_dump() | changes)


def _torsions(generator: np.random.Generator, n: int, positive: float) -> tuple[Arrays, np.ndarray]:
    """φ and ψ of a molecule with a share ``positive`` of φ > 0, and which rows those are."""
    right = generator.random(n) < positive
    left_mode = generator.integers(2, size=n)
    centre_phi = np.where(right, 60.0, np.where(left_mode, -150.0, -78.0))
    centre_psi = np.where(right, -70.0, np.where(left_mode, 155.0, 80.0))
    noise = generator.vonmises(0.0, 18.0, size=(2, n))
    phi, psi = np.angle(np.exp(1j * (np.radians([centre_phi, centre_psi]) + noise)))
    return {"phi": phi, "psi": psi}, (phi > 0) & (phi < np.radians(130))


def molecule(
    directory: Path, n: int = 20_000, seed: int = 0, *, conformations: bool = False, **changes: Any
) -> Results:
    """A good run on alanine dipeptide: 29 % of the data have φ > 0, in truth 0.9 %; log Z is -120.

    With ``conformations``, which tremble about the system's structure whatever their φ and ψ.
    """
    generator = np.random.default_rng(seed)
    system = load_system("alanine_dipeptide_vacuum")
    data, _ = _torsions(generator, 2 * n, 0.29)
    proposal, right = _torsions(generator, n, 0.29)
    held_out, held_right = _torsions(generator, n // 10, 0.29)
    spread = 0.6
    log_ratio = np.log(np.array([0.991 / 0.71, 0.009 / 0.29]))
    error = spread * generator.standard_normal(n) - spread**2 / 2
    log_weight = log_ratio[right.astype(int)] + error - 120.0
    log_weight[generator.integers(n, size=9)] = -np.inf
    held_error = spread * generator.standard_normal(n // 10) + spread**2 / 2
    held_log_weight = log_ratio[held_right.astype(int)] + held_error - 120.0

    def energies(count: int, excess: float) -> np.ndarray:
        return 0.5 * generator.chisquare(60, size=count) - 62.0 + excess

    energy = energies(n, 0.3)
    energy[~np.isfinite(log_weight)] = np.inf
    system.__dict__["reference"] = {
        "free_energy_differences": [
            {"name": "phi", "value": 4.68, "std_error": 0.05, "method": "replica exchange, 4 repeats"}
        ]
    }
    results = summarise(
        system, log_weight, proposal, data, held_out=held_out, held_out_log_weight=held_log_weight,
        **(FACTS | changes),
    )  # fmt: skip
    _write(directory, results, log_weight, energy, proposal, data, energies(2 * n, 0.0))
    np.savez(directory / "held_out.npz", log_weight=held_log_weight)
    if conformations:
        assert system.topology is not None
        start = mdtraj.load(str(system.path / "topology.pdb")).xyz[0].astype(np.float64)
        _write_conformations(directory, system, start + 0.008 * generator.standard_normal((n, *start.shape)))
    return results


def double_well(directory: Path, n: int = 20_000, seed: int = 0) -> tuple[Results, dict[str, ExactProfile]]:
    """The tilted double well, sampled from two Gaussians of equal weight; also its exact profiles."""
    generator = np.random.default_rng(seed)
    system = load_system("double_well")
    centres, width = np.array([-1.47, 1.35]), 0.42

    def draw(count: int) -> Arrays:
        return {
            "x": centres[generator.integers(2, size=count)] + width * generator.standard_normal(count),
            "y": generator.standard_normal(count),
        }

    def potential(x: np.ndarray) -> np.ndarray:
        return x - 4 * x**2 + x**4

    proposal, data = draw(n), draw(n)
    scaled = (proposal["x"][:, None] - centres) / width
    log_q = np.log(np.exp(-0.5 * scaled**2).mean(axis=1) / (width * np.sqrt(2 * np.pi)))
    energy = potential(proposal["x"]) + 0.5 * proposal["y"] ** 2
    log_weight = -potential(proposal["x"]) + 0.5 * np.log(2 * np.pi) - log_q
    system.__dict__["reference"] = {
        "free_energy_differences": [
            {"name": "wells", "value": 2.629382, "std_error": 0.0, "method": "quadrature"}
        ],
        "log_z": {"value": 5.951223, "std_error": 0.0, "method": "quadrature"},
    }
    results = summarise(system, log_weight, proposal, data, **FACTS)
    data_energy = potential(data["x"]) + 0.5 * data["y"] ** 2
    _write(directory, results, log_weight, energy, proposal, data, data_energy)
    return results, exact_profiles(system)


def chains(directory: Path, n_chains: int = 20, length: int = 1000, seed: int = 0) -> Results:
    """Replica exchange on the tilted double well, as it would be if its draws were almost independent."""
    generator = np.random.default_rng(seed)
    system = load_system("double_well")
    n = n_chains * length
    x = np.linspace(-4.0, 4.0, 20_001)
    density = np.exp(-(x - 4 * x**2 + x**4))
    cumulative = np.cumsum(density) / density.sum()

    def draw(count: int) -> Arrays:
        return {
            "x": np.interp(generator.random(count), cumulative, x),
            "y": generator.standard_normal(count),
        }

    proposal, data = draw(n), draw(n // 2)
    energy, data_energy = (
        part["x"] - 4 * part["x"] ** 2 + part["x"] ** 4 + 0.5 * part["y"] ** 2 for part in (proposal, data)
    )
    record = ChainRecord(n_chains, 0.81, 2345, (0.31, 0.42, 0.57))
    results = summarise(
        system, np.zeros(n), proposal, data, method="replica-exchange", chains=record, energy=energy,
        held_out=draw(50), held_out_log_weight=generator.standard_normal(50), seconds=100.0, **FACTS,
    )  # fmt: skip
    _write(directory, results, np.zeros(n), energy, proposal, data, data_energy)
    return results


def icosahedra(generator: np.random.Generator, n: int, spread: float) -> np.ndarray:
    """Icosahedra of 13 with noise, turned at random, ``(n, 13, 3)``."""
    golden = (1 + 5**0.5) / 2
    rectangle = np.array([[0.0, one, other * golden] for one in (1, -1) for other in (1, -1)])
    corners = np.concatenate([np.roll(rectangle, shift, axis=1) for shift in range(3)] + [np.zeros((1, 3))])
    turns = Rotation.random(n, rng=generator).as_matrix()
    points = 0.97 * corners / np.linalg.norm(corners[0]) @ turns
    points += spread * generator.standard_normal(points.shape)
    return points - points.mean(1, keepdims=True)


VIRIAL = [
    VirialCheck(
        of="samples", value=36.2, std_error=0.4, expected=36, z_score=0.5, n=3000, n_all=3000, method="m"
    ),
    VirialCheck(
        of="data", value=35.9, std_error=0.2, expected=36, z_score=-0.5, n=900, n_all=3000, method="m"
    ),
]


def comparison(value: float, n_effective: float = 2700.0) -> ReferenceComparison:
    """Energies at a W2 of ``value`` kT, whose floor is 0.29; pair distances at their floor."""
    common: dict[str, Any] = {"n": 3000, "n_effective": n_effective, "repeats": 5}
    energies = ReferenceDistance(
        name="energy_w2", unit="kT", value=value, value_std=0.05, unweighted=1.7, floor=0.29, floor_std=0.04,
        **common,
    )  # fmt: skip
    distances = ReferenceDistance(
        name="distance_w2", unit="reduced", value=0.0041, value_std=0.0004, unweighted=0.008, floor=0.0040,
        floor_std=0.0005, **common,
    )  # fmt: skip
    return ReferenceComparison(n_samples=3000, n_reference=6000, n_chains=20, metrics=[energies, distances])


def cluster(directory: Path, n: int = 3000, seed: int = 0, *, weighted: bool = True) -> Results:
    """A run on LJ13 whose data are icosahedra a little sharper than its samples, with even weights."""
    generator = np.random.default_rng(seed)
    system = load_system("lj13")
    x, held_out, y = (
        icosahedra(generator, size, width) for size, width in ((n, 0.08), (50, 0.08), (n, 0.075))
    )
    chain = np.arange(n) % 20
    energy = 3 * generator.standard_gamma(12.0, size=n) - 75.0
    log_weight = 0.3 * generator.standard_normal(n) if weighted else np.zeros(n)
    record = ClusterRecord(distance_bins(y), generator, np.zeros(13, dtype=np.int64))
    for part in np.array_split(np.arange(n), 3):
        record.add(x[part], energy[part], log_weight[part])
    observables, data = system.observables(x), system.observables(y)
    if weighted:
        changes: dict[str, Any] = {
            "held_out": system.observables(held_out),
            "held_out_log_weight": 0.3 * generator.standard_normal(50),
        }
    else:
        changes = {"method": "imh", "chains": ChainRecord(20, 0.6, None, None), "energy": energy}
    results = summarise(system, log_weight, observables, data, **changes, **FACTS)
    results = results.model_copy(update={"virial": VIRIAL, "comparison": comparison(value=0.31)})
    data_energy = 3 * generator.standard_gamma(12.0, size=n) - 75.0
    _write(directory, results, log_weight, energy, observables, data, data_energy)
    arrays = record.arrays(distances_of_data(y, chain, record.edges), weighted=weighted)
    np.savez(directory / "cluster.npz", **arrays)
    _write_conformations(directory, system, x)
    return results


def history(n: int = 240, every: int = 10) -> list[dict[str, float]]:
    """Training records, one in 25 steps, every tenth with held-out diagnostics."""
    generator = np.random.default_rng(1)
    records = []
    for row in range(1, n + 1):
        step = 25 * row
        decay = np.exp(-step / 900)
        record = {
            "step": step,
            "elapsed": 0.06 * step,
            "loss": 1.0 + 2 * decay,
            "mixed_score": 0.4 + 1.4 * decay + 0.03 * generator.standard_normal(),
            "bi_level": 0.9 + 0.5 * decay + 0.01 * generator.standard_normal(),
            "lr": 1e-3,
            "grad_norm": 0.8,
        }
        if row % every == 0:
            record |= {
                "held_out_mixed_score": 0.41 + 1.4 * decay,
                "held_out_bi_level": 0.905 + 0.5 * decay,
                "held_out_energy_sd": 0.25 + 3 * decay,
            }
        records.append(record)
    return records


def _write_conformations(directory: Path, system: System, x: np.ndarray) -> None:
    topology = topology_of(system)
    assert topology is not None
    with conformation_writer(directory, topology, len(x), x.shape[1:]) as append:
        append(x)
    save_structure(directory / "topology.pdb", x[0], topology)


def _write(
    directory: Path,
    results: Results,
    log_weight: np.ndarray,
    energy: np.ndarray,
    proposal: Arrays,
    data: Arrays,
    data_energy: np.ndarray,
) -> None:
    (directory / "train").mkdir(parents=True, exist_ok=True)
    write_results(directory / "results.json", results)
    observables = {f"obs_{name}": values for name, values in proposal.items()}
    np.savez(directory / "proposal.npz", log_weight=log_weight, energy=energy, **observables)
    observables = {f"obs_{name}": values for name, values in data.items()}
    np.savez(directory / "data.npz", energy=data_energy, **observables)
    lines = [json.dumps(record) for record in history()]
    (directory / "train" / "history.jsonl").write_text("\n".join(lines) + "\n")
    write_json(directory / "run.json", {"system": results.system, "config": {"training": {"steps": 6000}}})
