"""Training of the energy network on a data set: preparation, the loop, and its checkpoints."""

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bgdiff.config import RunConfig
from bgdiff.coordinates import Coordinates, LatentTarget
from bgdiff.errors import CheckpointError, DataError
from bgdiff.io import load_tensors, save_tensors
from bgdiff.ladder.kernels import Prior
from bgdiff.ladder.levels import noise_levels, overlap_windows, rung_spacing
from bgdiff.models import EnergyModel, make_network, mean_of_equal_axes
from bgdiff.objectives.base import Objective, Problem, Setup
from bgdiff.objectives.batches import Batch, draw_batch
from bgdiff.objectives.registry import make_objective
from bgdiff.objectives.score import curvature
from bgdiff.progress import Progress, silent
from bgdiff.random import derive_seed, generator_for
from bgdiff.training_data import TrainingData
from bgdiff.training_formats import FORMAT, upgraded

__all__ = ["Trainer"]

_LOG = logging.getLogger(__name__)
_EVALUATION_POINTS = 2048
_DIVERGED = 1e7  # losses are of order one; those of contrastive objectives have no lower bound


class Trainer:
    """Fits an energy network and the rungs' normalisers; can stop and go on at any step.

    The loss is the weighted sum of the settings' objectives. Every step draws its noise from a generator of
    its own, derived from (seed, step). A trainer restored from a checkpoint therefore does exactly what the
    uninterrupted one would have done.

    Args:
        data, held_out: latents to train on and to watch.
        coordinates: their coordinate map.
        config: the run's settings.
        latent: the target in latent space, needed for classification against the target itself.
        particle_types: which particles are equal, for networks that know particles; see
            :func:`bgdiff.models.make_network`.
    """

    def __init__(
        self,
        data: TrainingData,
        held_out: TrainingData,
        coordinates: Coordinates,
        config: RunConfig,
        latent: LatentTarget | None = None,
        particle_types: Tensor | None = None,
    ) -> None:
        self.config = config
        self.settings = config.training
        self.device = torch.device(config.device)
        self.latent = latent
        if self.settings.with_target and latent is None:
            raise ValueError("classification against the target needs the target")
        self.data = data.to(self.device, torch.float32)
        self.held_out = held_out.to(self.device, torch.float32)
        ladder = config.ladder
        self.sigma = noise_levels(ladder.n_training_rungs, ladder.sigma_min, ladder.sigma_max).to(self.device)
        self.periodic = coordinates.periodic.to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "initialise"))
            self.model = make_network(
                coordinates, particle_types, ladder.sigma_min, ladder.sigma_max, config.network
            )
        self.model.to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        if data.score is None:
            self.width = torch.ones(data.z.shape[1], device=self.device)
        else:
            stiffness = mean_of_equal_axes(self.model, 1 / curvature(data.score))
            self.width = (1 / stiffness).to(self.device, torch.float32)
        self.windows = overlap_windows(
            self.sigma, self.width, self.settings.reach, self.settings.n_levels - 1
        )
        self.spacing = rung_spacing(self.sigma, self.width)
        # f_k is the sum of the increments from k up, and f_K = 0: the top rung is the normalised prior.
        # Learned one by one, the f_k would follow each other from the top down far too slowly: only
        # near rungs overlap, so a shift of all the lower ones together hardly changes the loss.
        self.increments = torch.zeros(len(self.sigma) - 1, device=self.device, requires_grad=True)
        if self.settings.with_target:
            # A molecule's log Z is hundreds of kT, too far to walk. Seen from the untrained, Gaussian rungs
            # it is E[log p̃ - log N], but for the Kullback-Leibler divergence of the data from them.
            with torch.no_grad():
                gauss = Prior(0.0, self.periodic).log_prob(self.data.z)
                self.increments[0] = (gauss - self.data.log_density).mean()
        self.average_increments = self.increments.detach().clone()
        self.objectives = self._objectives()
        # The normalisers move by many kT while the network moves by a fraction of one: ten times the rate.
        groups: list[dict[str, Any]] = [
            {"params": list(self.model.parameters())},
            {"params": [self.increments]},
            {"params": [p for term in self.objectives.values() for p in term.parameters()]},
        ]
        self.optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.step_count = 0
        self.history: list[dict[str, float]] = []
        self._since_log: list[list[float]] = []
        self.elapsed = 0.0

    def _objectives(self) -> dict[str, Objective]:
        """The terms of the loss; each starts from random numbers of its own."""
        settings, terms = self.settings, {}
        for name in settings.objectives:
            setup = Setup(
                self.model, self.sigma, self.width, self.data.z, self.data.score, settings.batch_size,
                generator_for(self.config.seed, "objective", name, device=self.device),
            )  # fmt: skip
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(self.config.seed, "initialise", name))
                terms[name] = make_objective(name, setup, settings.objective_options.get(name))
            terms[name].to(self.device)
        return terms

    def step(self) -> None:
        """One step of the optimiser."""
        settings = self.settings
        generator = generator_for(self.config.seed, "train", self.step_count, device=self.device)
        batch = draw_batch(
            self.data.z, self.data.score, self.data.log_density, self.sigma, self.periodic, self.windows,
            self.spacing, settings.batch_size // settings.n_levels, settings.n_levels, generator,
            lowest=0 if settings.with_target else 1,
        )  # fmt: skip
        rate = self._learning_rate()
        for group, factor in zip(self.optimiser.param_groups, (1, 10, 1), strict=True):
            group["lr"] = factor * rate
        problem = self._problem(self.model, self.increments, batch, generator, self._target())
        terms = {name: term.loss(problem) for name, term in self.objectives.items()}
        loss = _weighted(terms, settings.objectives)
        self.optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.gradient_clip)
        self.optimiser.step()
        self.step_count += 1
        self._update_average()
        losses = [value.item() for value in terms.values()]
        for name, value in zip(terms, losses, strict=True):
            if not abs(value) < _DIVERGED:  # nan, too
                raise DataError(
                    f"training diverged at step {self.step_count} (the loss {name} is {value:.2g}); lower "
                    "training.learning_rate or look for broken frames in the data set"
                )
        self._since_log.append([*losses, norm.item()])
        last = self.step_count == settings.steps
        if (
            last
            or self.step_count % settings.log_every == 0
            or self.step_count % settings.evaluate_every == 0
        ):
            self._log(rate, evaluate=last or self.step_count % settings.evaluate_every == 0)

    def run(self, checkpoint: Path | None = None, progress: Progress = silent) -> None:
        """Train to the last step; with ``checkpoint``, save there at intervals and when interrupted."""
        started = saved = time.monotonic()
        before = self.elapsed
        try:
            while self.step_count < self.settings.steps:
                self.step()
                now = time.monotonic()
                self.elapsed = before + now - started
                if checkpoint is not None and now - saved >= self.settings.checkpoint_seconds:
                    self.save(checkpoint)
                    saved = now
                progress(self.step_count, self.settings.steps, self._status())
        except KeyboardInterrupt:
            # The interrupt may have struck between the optimiser and the average; the last periodic
            # checkpoint is consistent, this state might not be. Losing a minute keeps runs reproducible.
            _LOG.info("interrupted at step %d", self.step_count)
            raise
        if checkpoint is not None:
            self.save(checkpoint)

    def save(self, path: Path) -> None:
        """Write the complete state to one file, atomically."""
        tensors = {
            **{f"model.{name}": value for name, value in self.model.state_dict().items()},
            **{f"average.{name}": value for name, value in self.average.state_dict().items()},
            "increments": self.increments.detach(),
            "average_increments": self.average_increments,
        }
        for term, objective in self.objectives.items():
            stored = objective.state_dict()
            tensors |= {f"objectives.{term}.{name}": value for name, value in stored.items()}
        state = self.optimiser.state_dict()["state"]
        for index, entry in state.items():
            tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in entry.items()}
        metadata = {
            "kind": "training",
            "step": self.step_count,
            "elapsed": self.elapsed,
            "history": self.history,
            "since_log": self._since_log,
            "fingerprint": self._fingerprint(),
        }
        save_tensors(path, tensors, metadata)

    def load(self, path: Path) -> None:
        """Take up the state of :meth:`save`.

        Raises:
            CheckpointError: the file is damaged, or belongs to other settings.
        """
        tensors, metadata = upgraded(*load_tensors(path))
        if metadata.get("kind") != "training" or not self._continues(metadata.get("fingerprint", {})):
            raise CheckpointError(f"{path}: belongs to a training with other settings or data")
        self.model.load_state_dict(_under(tensors, "model."))
        self.average.load_state_dict(_under(tensors, "average."))
        with torch.no_grad():
            self.increments.copy_(tensors["increments"])
            self.average_increments.copy_(tensors["average_increments"])
        for name, objective in self.objectives.items():
            objective.load_state_dict(_under(tensors, f"objectives.{name}."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(tensors, "optimiser.").items():
            index, field = name.split(".", 1)
            state.setdefault(int(index), {})[field] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.step_count, self.elapsed = int(metadata["step"]), float(metadata["elapsed"])
        self.history = list(metadata["history"])
        self._since_log = [[float(value) for value in row] for row in metadata["since_log"]]

    def warm_start(self, path: Path) -> None:
        """Begin with the averaged weights of another training of the same network, as :meth:`save` wrote it.

        Raises:
            CheckpointError: the file is damaged, or its network or rungs are others.
        """
        tensors, metadata = upgraded(*load_tensors(path))
        theirs, ours = metadata.get("fingerprint", {}), self._fingerprint()
        same = all(theirs.get(key) == ours[key] for key in ("kind", "network", "ladder"))
        if metadata.get("kind") != "training" or not same:
            raise CheckpointError(f"{path}: was trained with another network or other noise levels")
        weights = _under(tensors, "average.")
        self.model.load_state_dict(weights)
        self.average.load_state_dict(weights)
        for name, objective in self.objectives.items():
            stored = _under(tensors, f"objectives.{name}.")
            if stored:  # it may have been trained by other objectives
                objective.load_state_dict(stored)
        with torch.no_grad():
            self.increments.copy_(tensors["average_increments"])
            self.average_increments.copy_(tensors["average_increments"])

    @property
    def normalisers(self) -> Tensor:
        """Learned f_k of the averaged weights, ``(K+1,)`` float64; f_K = 0."""
        return _normalisers(self.average_increments).to(torch.float64)

    def evaluate(self) -> dict[str, float]:
        """Held-out losses of the averaged weights, and the spread of their energy error.

        ``held_out_energy_sd`` is the standard deviation in kT, within basins, of the learned against the
        true log density at the lowest rung; ``held_out_NAME`` is the loss of each objective.
        """
        held = self.held_out
        generator = generator_for(self.config.seed, "evaluate", device=self.device)
        batch = draw_batch(
            held.z, held.score, held.log_density, self.sigma, self.periodic, self.windows, self.spacing,
            _EVALUATION_POINTS // self.settings.n_levels, self.settings.n_levels, generator,
        )  # fmt: skip
        problem = self._problem(self.average, self.average_increments, batch, generator, create_graph=False)
        result = {}
        for name, objective in self.objectives.items():
            objective.eval()
            result[f"held_out_{name}"] = objective.loss(problem).item()
            objective.train()
        index = torch.arange(0, len(held.z), max(1, len(held.z) // _EVALUATION_POINTS), device=self.device)
        with torch.no_grad():
            learned = self.average.log_density(held.z[index], self.sigma[1:2]).to(torch.float64)
        error = learned - held.log_density[index].to(torch.float64)
        if bool(torch.isfinite(error).all()):
            result["held_out_energy_sd"] = _spread_within(error, held.basin[index])
        return result

    def _problem(
        self,
        model: EnergyModel,
        increments: Tensor,
        batch: Batch,
        generator: torch.Generator,
        target: Callable[[Tensor], Tensor] | None = None,
        *,
        create_graph: bool = True,
    ) -> Problem:
        return Problem(
            model, _normalisers(increments), self.sigma, self.width, batch, generator, target, create_graph
        )

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.step_count + 1) / max(1, self.settings.warm_up))
        fall = 0.5 * (1 + math.cos(math.pi * self.step_count / self.settings.steps))
        return self.settings.learning_rate * warm * fall

    def _target(self) -> Callable[[Tensor], Tensor] | None:
        if not self.settings.with_target or self.latent is None:
            return None
        latent = self.latent

        def log_density(z: Tensor) -> Tensor:
            return latent.log_density(z.detach().cpu()).to(z.device)

        return log_density

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the average forgets faster, so that it is never dominated by the starting point.
        decay = min(self.settings.ema, (1 + self.step_count) / (10 + self.step_count))
        averages = [*self.average.parameters(), self.average_increments]
        currents = [*self.model.parameters(), self.increments]
        torch._foreach_lerp_(averages, [current.detach() for current in currents], 1 - decay)

    def _log(self, rate: float, *, evaluate: bool) -> None:
        *losses, norm = (sum(column) / len(column) for column in zip(*self._since_log, strict=True))
        self._since_log = []
        terms = dict(zip(self.objectives, losses, strict=True))
        record = {
            "step": self.step_count,
            "elapsed": self.elapsed,
            "loss": _weighted(terms, self.settings.objectives),
            **terms,
            "lr": rate,
            "grad_norm": norm,
        }
        if evaluate:
            record |= self.evaluate()
        self.history.append(record)
        _LOG.info("step %d: %s", self.step_count, {k: round(v, 4) for k, v in record.items() if k != "step"})

    def _status(self) -> str:
        evaluated = next(
            (record for record in reversed(self.history) if "held_out_energy_sd" in record), None
        )
        parts = [f"loss {self.history[-1]['loss']:.3f}"] if self.history else []
        if evaluated:
            parts.append(f"held-out energy error {evaluated['held_out_energy_sd']:.2f} kT")
        return ", ".join(parts)

    def _fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must share with a trainer to be taken up by it."""
        config = self.config.model_dump(mode="json")
        return {
            "format": FORMAT,
            "seed": self.config.seed,
            "kind": self.model.kind,
            **{section: config[section] for section in ("network", "training")},
            "ladder": {k: config["ladder"][k] for k in ("sigma_min", "sigma_max", "n_training_rungs")},
            "data": [list(self.data.z.shape), float(self.data.z.sum(dtype=torch.float64))],
        }

    def _continues(self, theirs: dict[str, Any]) -> bool:
        """Whether a checkpoint's fingerprint is this trainer's, but for the order of a sum's terms: threads
        share them out, and a run may go on with another number of threads."""
        ours = self._fingerprint()
        (shape, total), (their_shape, their_total) = ours.pop("data"), theirs.get("data", (None, math.nan))
        rest = {key: value for key, value in theirs.items() if key != "data"}
        return rest == ours and their_shape == shape and math.isclose(total, their_total, abs_tol=1e-6)


def _normalisers(increments: Tensor) -> Tensor:
    """f_k = Σ_{j ≥ k} of the increments ``(K,)``, and f_K = 0: ``(K+1,)``."""
    return torch.cat([increments.flip(0).cumsum(0).flip(0), torch.zeros_like(increments[:1])])


def _weighted(terms: Mapping[str, Any], weights: Mapping[str, float]) -> Any:
    """Σ weight · term, of tensors or numbers."""
    return sum(weights[name] * value for name, value in terms.items())


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _spread_within(values: Tensor, group: Tensor) -> float:
    """Pooled standard deviation within groups."""
    total, freedom = 0.0, 0
    for which in group.unique():
        members = values[group == which]
        if len(members) > 1:
            total += float(members.var()) * (len(members) - 1)
            freedom += len(members) - 1
    return math.sqrt(total / freedom) if freedom else math.nan
