"""The samples of a run as a stream of small ensembles, whatever method drew them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bgdiff.analysis.chains import ChainRecord
from bgdiff.chains import ChainPilot, ChainPlan
from bgdiff.chunk_files import CHAIN_PILOT, PILOT, load_population, load_stretch, load_walks
from bgdiff.correction import stage_notes
from bgdiff.generator import BoltzmannGenerator, Ensemble, Proposal
from bgdiff.io import read_json
from bgdiff.ladder.paths import Paths
from bgdiff.ladder.smc import StageRecord

if TYPE_CHECKING:
    from bgdiff.config import Method
    from bgdiff.run import Run

__all__ = ["Columns", "Correction", "Source", "open_source"]

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Correction:
    """How the samples of a run were corrected, as far as their weights do not say it."""

    method: "Method" = "is"
    n_resamplings: int = 0
    n_populations: int = 0
    target_evaluations: int = 0
    """Spent on drawing; weighted samples cost one more each in the end."""
    chains: ChainRecord | None = None
    """If the samples are unweighted draws of chains, round by round."""
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Correction":
        """Read what ``asdict`` gives; what earlier versions did not write has its default."""
        chains = content.get("chains")
        if chains is not None:
            rates = chains["swap_rates"]
            chains = ChainRecord(**{**chains, "swap_rates": None if rates is None else tuple(rates)})
        return cls(**{**content, "chains": chains, "notes": tuple(content.get("notes", ()))})


class Source(Protocol):
    """Gives a run's samples once, in order, a chunk at a time."""

    @property
    def n_samples(self) -> int: ...

    def __iter__(self) -> Iterator[Ensemble]: ...

    def finish(self) -> tuple[Correction, dict[str, Arrays]]:
        """After the last chunk: how the samples were corrected, and further arrays by file.

        ``proposal`` may hold ``family``; ``model`` what the walks say about the lowest rung; ``walks`` the
        log weights of the walks that chains took as proposals.
        """
        ...


class Columns:
    """Arrays with one number per sample that grow chunk by chunk."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Append one chunk ``(B,)`` of every array. A view is copied, lest it keep the whole file."""
        for name, values in arrays.items():
            self._parts.setdefault(name, []).append(np.array(values))
        self._n += len(next(iter(arrays.values())))

    def joined(self) -> Arrays:
        """Every array whole; the parts are let go of."""
        return {name: np.concatenate(self._parts.pop(name)) for name in list(self._parts)}


def open_source(run: "Run", generator: BoltzmannGenerator, method: "Method") -> Source:
    """The samples that were drawn for a method of correction."""
    return _Weighted(run, generator, method) if method in ("is", "smc") else _Chains(run, generator, method)


class _Model:
    """What walks say about the energy that was learned, at the lowest rung."""

    def __init__(self, generator: BoltzmannGenerator) -> None:
        self._generator = generator
        self._columns = Columns()

    def add(self, paths: Paths) -> None:
        x, _ = self._generator.coordinates.to_x(paths.z_low)
        found = self._generator.system.observables(x)
        self._columns.add(
            {
                "log_weight": paths.log_weight_low.numpy(),
                **{f"obs_{name}": values for name, values in found.items()},
            }
        )

    def arrays(self) -> Arrays:
        return self._columns.joined()


class _Weighted:
    """Walks or populations, weighted by the target."""

    def __init__(self, run: "Run", generator: BoltzmannGenerator, method: "Method") -> None:
        self._generator, self._method = generator, method
        self._chunks = run.chunks(method)
        self._model = _Model(generator)
        self._families: list[Tensor] = []
        self._records: list[list[StageRecord]] = []
        self._resamplings = self._evaluations = 0

    @property
    def n_samples(self) -> int:
        return sum(n for _, n in self._chunks)

    def __iter__(self) -> Iterator[Ensemble]:
        first = 0
        for file, n in self._chunks:
            if self._method == "is":
                paths = load_walks(file)
            else:
                paths, family, history = load_population(file)
                self._families.append(family + first)
                self._records.append(history["records"])
                self._resamplings += history["n_resamplings"]
                self._evaluations += history["target_evaluations"]
            first += n
            self._model.add(paths)
            yield Proposal(self._generator.system, self._generator.coordinates, paths).reweight()

    def finish(self) -> tuple[Correction, dict[str, Arrays]]:
        model = self._model.arrays()
        if self._method == "is":
            return Correction(), {"model": model}
        pilot = read_json(self._chunks[0][0].parent / PILOT)
        correction = Correction(
            "smc",
            self._resamplings,
            len(self._chunks),
            self._evaluations + int(pilot["target_evaluations"]),
            notes=tuple(stage_notes(self._records)),
        )
        return correction, {"model": model, "proposal": {"family": torch.cat(self._families).numpy()}}


class _Chains:
    """Unweighted draws; the target's energies are known from the drawing."""

    def __init__(self, run: "Run", generator: BoltzmannGenerator, method: "Method") -> None:
        self._generator, self._method, self._config = generator, method, run.config
        self._chunks, self._plan = run.chunks(method), ChainPlan.of(run.config, method)
        self._walks = run.chunks("is") if method == "imh" else []
        self._weights = Columns()
        self._acceptance = 0.0
        self._evaluations = self._arrivals = 0
        self._tried, self._exchanged = torch.zeros(()), torch.zeros(())

    @property
    def n_samples(self) -> int:
        return self._plan.chains * (self._plan.length - self._plan.dropped)

    def __iter__(self) -> Iterator[Ensemble]:
        for index, (file, n) in enumerate(self._chunks):
            stretch, kept, width = load_stretch(file), self._plan.kept(index), self._plan.chains
            self._acceptance += stretch.acceptance * n / sum(size for _, size in self._chunks)
            self._evaluations += stretch.target_evaluations
            self._weights.add({"log_weight": stretch.walk_log_weight.numpy()})
            self._arrivals += int(stretch.arrivals[kept].sum())
            self._tried = self._tried + stretch.tried
            self._exchanged = self._exchanged + stretch.exchanged
            rows = slice(kept.start * width, kept.stop * width)
            if rows.start == rows.stop:
                continue
            x, log_det = self._generator.coordinates.to_x(stretch.z[rows])
            energy = log_det - stretch.log_density[rows]
            yield Ensemble(self._generator.system, x.numpy(), energy.numpy(), np.zeros(len(x)))

    def finish(self) -> tuple[Correction, dict[str, Arrays]]:
        extra: dict[str, Arrays] = {}
        rates = None
        if self._method == "imh":
            extra["walks"] = self._weights.joined()
            model = _Model(self._generator)
            for file, _ in self._walks:
                model.add(load_walks(file))
            extra["model"] = model.arrays()
        else:
            rates = tuple((self._exchanged / self._tried.clamp_min(1)).tolist())
        pilot = ChainPilot.load(self._chunks[0][0].parent / CHAIN_PILOT, self._config.correction)
        record = ChainRecord(
            self._plan.chains,
            min(self._acceptance, 1.0),
            None if rates is None else self._arrivals,
            rates,
        )
        evaluations = self._evaluations + pilot.target_evaluations
        return Correction(self._method, target_evaluations=evaluations, chains=record), extra
