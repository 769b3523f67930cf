"""What runs say about their rungs, read back and drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_run import chains, double_well

from bgdiff.analysis.ladder_plots import ladder_rungs
from bgdiff.analysis.rung_record import read_rungs
from bgdiff.errors import CheckpointError
from bgdiff.io import save_tensors, write_json

SIGMA = torch.tensor([0.0, 0.1, 0.4, 1.5, 6.0], dtype=torch.float64)


def generator_file(directory: Path, folder: str = "train") -> None:
    """A generator whose data are standard normal along each of five axes: E[s²] = 1/(1 + σ²)."""
    moments = (1 / (1 + SIGMA[1:] ** 2))[:, None].expand(-1, 5)
    path = directory / folder / "generator.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {"sigma": SIGMA, "moments": moments, "other": torch.zeros(3)}, {"kind": "generator"})


def test_steps_of_a_gaussian(tmp_path: Path) -> None:
    results, _ = double_well(tmp_path, n=200)
    assert not read_rungs(tmp_path, results)
    generator_file(tmp_path)
    steps = read_rungs(tmp_path, results).steps
    assert steps is not None
    # the exact conditional variance of z_k given z_{k+1} over D: (1 + σ_k²)/(1 + σ_{k+1}²)
    expected = (1 + SIGMA[:-1] ** 2) / (1 + SIGMA[1:] ** 2)
    np.testing.assert_allclose(steps.spread, np.repeat(expected.numpy()[:, None], 3, axis=1), rtol=1e-12)
    np.testing.assert_array_equal(steps.sigma, SIGMA[1:])


def test_populations_are_read_rung_by_rung(tmp_path: Path) -> None:
    results, _ = double_well(tmp_path, n=200)
    generator_file(tmp_path)
    stages = [
        ("rung 3 (sigma = 1.5)", 0.9, [0.4, 0.6]),
        ("rung 1 (sigma = 0.1)", 0.3, []),
        ("bridge 0.5", 0.8, []),
    ]
    records: list[dict[str, Any]] = [
        {"stage": stage, "effective_fraction": worth, "resampled": worth < 0.5, "acceptance": accepted}
        for stage, worth, accepted in stages
    ]
    (tmp_path / "samples-smc").mkdir()
    for index in range(2):
        file = tmp_path / "samples-smc" / f"chunk-{index:05d}.safetensors"
        save_tensors(file, {"z": torch.zeros(2, 2)}, {"kind": "population", "records": records})
    record = read_rungs(tmp_path, results.model_copy(update={"method": "smc"}))
    assert len(record.populations) == 2
    one = record.populations[0]
    np.testing.assert_array_equal(one.sigma, [1.5, 0.1])
    np.testing.assert_array_equal(one.effective, [0.9, 0.3])
    np.testing.assert_array_equal(one.acceptance, [0.5, np.nan])
    np.testing.assert_array_equal(one.resampled, [False, True])
    figure = ladder_rungs(record, threshold=0.5)
    assert len(figure.axes) == 3
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"chunk-00001\.safetensors: corrupt"):
        read_rungs(tmp_path, results.model_copy(update={"method": "smc"}))


def test_exchanges_belong_to_pairs_of_rungs(tmp_path: Path) -> None:
    results = chains(tmp_path, n_chains=4, length=50)
    folder = tmp_path / "samples-replica-exchange"
    folder.mkdir()
    save_tensors(folder / "pilot.safetensors", {"sigma": SIGMA}, {"kind": "pilot of chains"})
    write_json(tmp_path / "correction.json", {"chains": {"swap_rates": [0.1, 0.2, 0.3, 0.4]}})
    exchanges = read_rungs(tmp_path, results).exchanges
    assert exchanges is not None
    np.testing.assert_array_equal(exchanges.sigma, SIGMA[1:])
    np.testing.assert_array_equal(exchanges.rate, [0.1, 0.2, 0.3, 0.4])
    write_json(tmp_path / "correction.json", {"chains": {"swap_rates": [0.1]}})
    assert read_rungs(tmp_path, results).exchanges is None
