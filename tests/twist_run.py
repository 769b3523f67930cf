"""A finished run of the twist of :mod:`molecules`, and exact conformations of it."""

from typing import Any

import mdtraj
import numpy as np
import pytest
from molecules import FOLD, TEMPERATURE, TILT, twist_folder

from bgdiff.run import Run, stage_reweight, stage_sample, stage_train, start_run
from bgdiff.systems import load_system
from bgdiff.targets.openmm import GAS_CONSTANT

KT = GAS_CONSTANT * TEMPERATURE
SMALL: dict[str, Any] = {
    "network": {"width": 32, "depth": 1},
    "ladder": {"n_training_rungs": 16, "n_rungs": 12, "moment_samples": 256, "pilot_samples": 100},
    "training": {"steps": 60, "batch_size": 128, "learning_rate": 3e-3},
    "sampling": {"n_samples": 400, "chunk": 200, "n_held_out": 20},
}


def draw_from(grid: np.ndarray, density: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    cumulative = np.cumsum(density)
    return np.interp(random.random(n), cumulative / cumulative[-1], grid)


def twist_samples(n: int, seed: int, tilt: float = TILT) -> np.ndarray:
    """Exact conformations ``(n, 4, 3)`` of the twist: its bonds, angles and torsion are independent."""
    random = np.random.default_rng(seed)
    r, theta = np.linspace(0.1, 0.2, 20_001), np.linspace(1.2, 2.6, 20_001)
    phi = np.linspace(-np.pi, np.pi, 20_001)
    bonds = [draw_from(r, r**2 * np.exp(-1e5 * (r - 0.15) ** 2 / 2 / KT), n, random) for _ in range(3)]
    angle = np.sin(theta) * np.exp(-400 * (theta - 1.9) ** 2 / 2 / KT)
    first, second = (draw_from(theta, angle, n, random) for _ in range(2))
    torsion = draw_from(phi, np.exp(-tilt * np.cos(phi) - FOLD * (1 - np.cos(2 * phi))), n, random)
    x = np.zeros((n, 4, 3))
    x[:, 1, 0] = bonds[0]
    x[:, 2] = x[:, 1] + bonds[1][:, None] * np.stack([-np.cos(first), np.sin(first), 0 * first], 1)
    forward = (x[:, 2] - x[:, 1]) / bonds[1][:, None]
    side = np.cross([0.0, 0.0, 1.0], forward)  # on which atom 0 lies
    out = np.cos(torsion)[:, None] * side + np.sin(torsion)[:, None] * [0.0, 0.0, 1.0]
    last = -np.cos(second)[:, None] * forward + np.sin(second)[:, None] * out
    x[:, 3] = x[:, 2] + bonds[2][:, None] * last
    return x


@pytest.fixture(scope="session")
def twist_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the twist without report, trained for a moment: its 400 samples need their weights."""
    folder = twist_folder(tmp_path_factory.mktemp("systems") / "twist")
    data = folder / "exact.dcd"
    topology = load_system(folder).topology
    mdtraj.Trajectory(twist_samples(2000, 0).astype(np.float32), topology).save_dcd(str(data))
    path = start_run(folder, tmp_path_factory.mktemp("runs") / "run", seed=1, overrides=SMALL, data=data)
    stage_train(path)
    stage_sample(path)
    return stage_reweight(path)
