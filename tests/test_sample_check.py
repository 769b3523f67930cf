"""The check of a run's samples: which rows it reads, what it finds, and when it does not compare."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checks import seeded
from rich.console import Console

from bgdiff import sample_check
from bgdiff.analysis.chains import ChainRecord
from bgdiff.analysis.summarise import summarise
from bgdiff.analysis.summary import summary_table
from bgdiff.conformations import conformation_writer
from bgdiff.data.dataset import Dataset
from bgdiff.errors import CheckpointError
from bgdiff.io import write_json
from bgdiff.sample_check import check_samples, read_conformations
from bgdiff.systems import System, load_system

N = 3000
TEMPERED = "parallel tempering, frames of the lowest temperature"


@pytest.fixture(scope="module")
def well() -> System:
    return load_system("double_well")


def equilibrium(n: int, seed: int) -> torch.Tensor:
    """Independent draws of the double well (a, b, c) = (1, -4, 1)."""
    x = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    share = torch.exp(-(x - 4 * x**2 + x**4)).cumsum(0)
    position = torch.rand(n, generator=seeded(seed), dtype=torch.float64)
    y = torch.randn(n, generator=seeded(seed + 1), dtype=torch.float64)
    return torch.stack([x[torch.searchsorted(share / share[-1], position).clamp_max(80_000)], y], 1)[:, None]


def a_run(folder: Path, system: System, provenance: dict[str, Any], **correction: Any) -> Any:
    """A run as far as the check looks at it; its samples are twice as wide as they should be along y."""
    x = equilibrium(N, 1) if correction else equilibrium(N, 1) * torch.tensor([1.0, 2.0])
    with conformation_writer(folder, None, N, (1, 2)) as append:
        append(x.numpy())
    log_weight = np.zeros(N) if correction else (-0.375 * x[:, 0, 1] ** 2).numpy()
    np.savez(folder / "proposal.npz", log_weight=log_weight, energy=system.target.energy(x).numpy())
    write_json(folder / "correction.json", correction)
    data = Dataset(equilibrium(N, 3), torch.arange(N) // (N // 6), provenance)
    np.savez(folder / "data.npz", energy=system.target.energy(data.x).numpy())
    config = SimpleNamespace(seed=0, training=SimpleNamespace(held_out=0.4))
    return SimpleNamespace(path=folder, file=folder.joinpath, system=system, data=data, config=config)


def test_weighted_samples_are_checked_and_compared(tmp_path: Path, well: System) -> None:
    run = a_run(tmp_path, well, {"method": TEMPERED, "ensemble_digest": well.ensemble_digest})
    found = check_samples(run)
    assert [(check.of, check.n, check.n_all) for check in found.virial] == [
        ("samples", N, N),
        ("data", N, N),
    ]
    assert all(abs(check.z_score or np.inf) < 4 and check.expected == 2 for check in found.virial)
    assert found.missing is None
    assert found.comparison is not None
    assert (found.comparison.n_reference, found.comparison.n_chains) == (0.4 * N, 6)
    (energy,) = found.comparison.metrics
    assert energy.n == 0.2 * N
    assert energy.unweighted is not None
    assert energy.value < 3 * energy.floor < 0.3 * energy.unweighted


def test_chains_stay_chains(tmp_path: Path, well: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_check, "_MOST", 900)
    record = {"n_chains": 30, "acceptance": 0.5, "round_trips": None, "swap_rates": None}
    assert ChainRecord(**record)
    run = a_run(tmp_path, well, {"method": "molecular dynamics"}, method="imh", chains=record)
    samples, data = check_samples(run).virial
    assert (samples.n, samples.n_all, data.n) == (900, N, 900)
    assert samples.method == "mean over chains, error from autocorrelation"
    assert abs(samples.z_score or np.inf) < 4
    rows = sample_check._rounds(N, 30).reshape(30, 30)
    np.testing.assert_array_equal(rows % 30, np.tile(np.arange(30), (30, 1)))
    assert (rows[0, 0], rows[-1, -1]) == (0, N - 1)


@pytest.mark.parametrize(
    ("provenance", "words"),
    [
        ({}, "known to be in equilibrium, and these are not.*--method parallel-tempering"),
        ({"files": [{"method": "molecular dynamics"}]}, "known to be in equilibrium, and these are not"),
        ({"method": TEMPERED, "ensemble_digest": "of something else"}, "another potential or temperature"),
    ],
)
def test_biased_data_are_no_reference(
    tmp_path: Path, well: System, provenance: dict[str, Any], words: str
) -> None:
    found = check_samples(a_run(tmp_path, well, provenance))
    assert found.comparison is None
    assert found.missing is not None
    assert len(found.virial) == 2
    assert re.search(words, found.missing)


def test_rows_are_found_in_either_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_check, "_CHUNK", 7)
    molecule = load_system("alanine_dipeptide_vacuum")
    x = molecule.load_data().x[:30].numpy()
    rows = np.array([0, 6, 7, 20, 29])
    for system, shape, tolerance in ((molecule, (22, 3), 1e-6), (load_system("dw4"), (4, 2), 0)):
        part = x[:, : shape[0], : shape[1]]
        with conformation_writer(tmp_path, system.topology, 30, shape) as append:
            append(part[:11])
            append(part[11:])
        run: Any = SimpleNamespace(path=tmp_path, file=tmp_path.joinpath, system=system)
        np.testing.assert_allclose(read_conformations(run, rows), part[rows], rtol=0, atol=tolerance)
        with pytest.raises(CheckpointError, match=r"samples\.\w+: .*holds 30 .*bgdiff reweight"):
            read_conformations(run, np.array([3, 30]))
    (tmp_path / "samples.npz").write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match=r"samples\.npz: is missing or damaged"):
        read_conformations(run, rows)


def test_the_summary_shows_both(tmp_path: Path, well: System) -> None:
    run = a_run(tmp_path, well, {"method": TEMPERED, "ensemble_digest": well.ensemble_digest})
    found = check_samples(run)
    few = {"x": np.linspace(-1, 1, 20), "y": np.zeros(20)}
    results = summarise(
        well, np.zeros(20), few, few, preset="quick", seed=0, bgdiff_version="0", target_evaluations=1,
        timings={}, versions={},
    ).model_copy(update={"virial": found.virial, "comparison": found.comparison})  # fmt: skip
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(results))
    text = capture.get()
    assert "virial ⟨x·∇u⟩" in text
    assert "must be 2, " in text
    assert "of the data set" in text
    assert "energies (W2) / kT" in text
    assert "floor " in text
    assert "unweighted " in text
