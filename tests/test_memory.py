"""Correcting samples holds a chunk of conformations at a time, however many there are."""

import tracemalloc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bgdiff.outputs
import bgdiff.sources
from bgdiff.chains import ChainPilot, ChainPlan
from bgdiff.chunk_files import CHAIN_PILOT, Stretch, save_chunk, save_stretch
from bgdiff.config import make_config
from bgdiff.ladder.paths import Paths
from bgdiff.outputs import load_arrays, write_ensemble
from bgdiff.run import Run
from bgdiff.sources import Columns

N, CHUNK, PARTICLES = 4000, 100, 60
WHOLE = N * PARTICLES * 3 * 8


class Watched:
    """Coordinates that scale and reshape. Conformations are NumPy's, so that their allocation can be traced;
    latents, which torch allocates, are followed as long as they live."""

    periodic = torch.zeros(3 * PARTICLES, dtype=torch.bool)

    def __init__(self) -> None:
        self.latents: list[weakref.ref[Tensor]] = []
        self.most = self.calls = 0

    def to_x(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        if all(ref() is not z for ref in self.latents):
            self.latents = [ref for ref in self.latents if ref() is not None] + [weakref.ref(z)]
        self.most = max(self.most, sum(ref().nbytes for ref in self.latents))
        x = (2 * z.numpy()).reshape(-1, PARTICLES, 3)
        return torch.from_numpy(x), torch.zeros(len(z), dtype=torch.float64)


class FakeRun:
    """As much of a run of harmonic particles as the correction looks at."""

    chunks = Run.chunks

    def __init__(self, path: Path) -> None:
        self.path = path
        overrides = {"sampling": {"n_samples": N, "chunk": CHUNK}, "correction": {"chains": 10}}
        self.config = make_config(overrides=overrides)
        energy = lambda x: 0.5 * x.square().sum((1, 2))  # noqa: E731
        self.system = SimpleNamespace(
            target=SimpleNamespace(energy=energy, event_shape=(PARTICLES, 3)),
            topology=None,
            particle_types=None,
            observables=lambda x: {"x": np.array(x[:, 0, 0].tolist())},
        )
        x = torch.zeros(5, PARTICLES, 3, dtype=torch.float64)
        self.data = SimpleNamespace(x=x, chain=torch.zeros(5, dtype=torch.int64))
        np.savez(path / "held_out.npz", log_weight=np.zeros(0), index=np.zeros(0, dtype=np.int64))

    def file(self, name: str) -> Path:
        return self.path / name

    def draw(self, method: Any) -> None:
        chunks = self.chunks(method)
        chunks[0][0].parent.mkdir()
        generator = torch.Generator().manual_seed(0)
        for file, n in chunks:
            z = torch.randn(n, 3 * PARTICLES, generator=generator, dtype=torch.float64)
            if method == "is":
                save_chunk(file, Paths(z, z[:, 0].clone(), z.clone(), z[:, 1].clone()))
            else:
                rates = torch.ones(3, dtype=torch.float64)
                save_stretch(file, Stretch(z, -z[:, 0], {}, 0.5, n, tried=rates, exchanged=rates / 2))
        if method != "is":
            ChainPilot({"x": torch.zeros(1)}).save(chunks[0][0].parent / CHAIN_PILOT, self.config.correction)


def peak(tmp_path: Path, method: Any) -> tuple[int, int]:
    """Most bytes of latents that live at once, and most bytes that NumPy has allocated at once."""
    run, watched = FakeRun(tmp_path), Watched()
    run.draw(method)
    generator: Any = SimpleNamespace(system=run.system, coordinates=watched)
    tracemalloc.start()
    try:
        write_ensemble(run, generator, method)  # type: ignore[arg-type]
        arrays = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert watched.calls >= N // CHUNK
    return watched.most, arrays


@pytest.mark.parametrize("method", ["is", "replica-exchange"])
def test_conformations_are_never_all_in_memory(tmp_path: Path, method: Any) -> None:
    latents, arrays = peak(tmp_path, method)
    assert latents <= 4 * WHOLE * CHUNK / N
    assert arrays < 0.25 * WHOLE
    n = len(load_arrays(tmp_path / "proposal.npz")["energy"])
    plan = ChainPlan.of(FakeRun(tmp_path).config, method)
    assert n == (N if method == "is" else 10 * (plan.length - plan.dropped))
    x = np.load(tmp_path / "samples.npz")["x"]
    assert x.shape == (n, PARTICLES, 3)
    z = torch.randn(CHUNK, 3 * PARTICLES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if method == "is":
        np.testing.assert_array_equal(x[:CHUNK].reshape(CHUNK, -1), 2 * z.numpy())


def test_what_is_kept_is_kept_alone() -> None:
    """A chunk's numbers may be a view of all that its file holds, which must not stay for their sake."""
    columns, chunk = Columns(), np.arange(12.0).reshape(4, 3)
    columns.add({"first": chunk[:, 0]})
    chunk[:] = -1
    columns.add({"first": chunk[:2, 0]})
    assert len(columns) == 6
    assert columns.joined()["first"].tolist() == [0, 3, 6, 9, -1, -1]


def test_hoarded_conformations_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deliberate bug: a writer that keeps what it was given until the end."""
    hoard: list[np.ndarray] = []
    writer = bgdiff.outputs.conformation_writer

    class Hoarder:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.inner = writer(*arguments, **options)

        def __enter__(self) -> Any:
            append = self.inner.__enter__()
            return lambda x: (hoard.append(x), append(x))

        def __exit__(self, *error: Any) -> Any:
            return self.inner.__exit__(*error)

    monkeypatch.setattr(bgdiff.outputs, "conformation_writer", Hoarder)
    assert peak(tmp_path, "is")[1] > 0.9 * WHOLE


def test_hoarded_walks_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deliberate bug: all walks are read before the first is weighted."""
    hoard: dict[Path, Paths] = {}
    read = bgdiff.sources.load_walks
    monkeypatch.setattr(bgdiff.sources, "load_walks", lambda path: hoard.setdefault(path, read(path)))
    assert peak(tmp_path, "is")[0] > 0.9 * WHOLE
