"""The Boltzmann generator: what training yields, what it draws, and what reweighting makes of that."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bgdiff.analysis.weights import WeightDiagnostics, normalised_weights, weight_diagnostics
from bgdiff.config import RunConfig, make_config, parse_config
from bgdiff.conformations import in_space, topology_of
from bgdiff.coordinates import Coordinates, LatentTarget, coordinates_from_state
from bgdiff.data.rotors import relabelled
from bgdiff.errors import CheckpointError, ConfigError, DataError
from bgdiff.free_energy.estimate import Estimate
from bgdiff.free_energy.importance import expectation, family_log_weights, free_energy_difference, log_z
from bgdiff.free_energy.normalisers import polish, solve_normalisers
from bgdiff.io import load_tensors, save_tensors
from bgdiff.ladder.levels import even_levels, noise_levels
from bgdiff.ladder.pair_fit import measure_pairs
from bgdiff.ladder.pairwise import PairCurvature
from bgdiff.ladder.paths import Ladder, Paths, measure_curvature, measure_moments
from bgdiff.ladder.rung_samples import data_width
from bgdiff.models import Network, is_particle_model, network_from_description
from bgdiff.preparation import Prepared, prepare
from bgdiff.progress import Progress, silent
from bgdiff.random import generator_for
from bgdiff.systems import System
from bgdiff.training import Trainer

if TYPE_CHECKING:
    import mdtraj

    from bgdiff.data.dataset import Dataset

__all__ = ["BoltzmannGenerator", "Ensemble", "Proposal", "finish", "join_paths", "make_trainer", "train"]

_LOG = logging.getLogger(__name__)
_CURVATURE_SAMPLES = 2048
_FEWEST_MOMENTS = 256
_FEWEST_POINTS = 64  # at a rung, to polish normalisers with


@dataclass(frozen=True)
class BoltzmannGenerator:
    """A trained ladder for a system.

    ``normalisers`` are the learned f_k = -log Z_k of the training rungs, ``(K+1,)``, float64, with the
    noise levels ``training_sigma``; f_K = 0 is the normalised prior. f_0 is learned only when
    training classified against the target. :func:`finish` has polished them on the training data.
    """

    system: System
    coordinates: Coordinates
    ladder: Ladder
    normalisers: Tensor
    training_sigma: Tensor
    config: RunConfig

    def walk(self, chunk: int, n: int, *, seed: int, progress: Progress = silent) -> Paths:
        """The walks of one chunk; they depend on (seed, chunk, n) and nothing else."""
        device = self.ladder.sigma.device
        return self.ladder.walk_down(n, generator_for(seed, "sample", chunk, device=device), progress)

    def sample(self, n: int, *, seed: int = 0, progress: Progress = silent) -> "Proposal":
        """Draw ``n`` independent samples with their path weights. No target energy is computed.

        Raises:
            ConfigError: ``n`` is not positive.
        """
        if n < 1:
            raise ConfigError(f"the number of samples must be positive, not {n}")
        size = self.config.sampling.chunk
        chunks = []
        for chunk, start in enumerate(range(0, n, size)):
            count = min(size, n - start)

            def report(k: int, of: int, text: str = "", *, start: int = start, count: int = count) -> None:
                progress(start * of + k * count, n * of, text)

            chunks.append(self.walk(chunk, count, seed=seed, progress=report))
        return Proposal(self.system, self.coordinates, join_paths(chunks))

    def save(self, path: Path | str) -> None:
        """Write everything but the system's own definition to one safetensors file, atomically."""
        model = self.ladder.model
        if not isinstance(model, Network):
            raise TypeError("only generators with a learned network can be saved")
        coordinates, description = self.coordinates.state()
        tensors = {
            # copies: a file cannot hold a tensor twice, and parts of a composition may be one network
            **{f"model.{name}": value.clone() for name, value in model.state_dict().items()},
            **{f"coordinates.{name}": value for name, value in coordinates.items()},
            "sigma": self.ladder.sigma,
            "moments": self.ladder.moments,
            "normalisers": self.normalisers,
            "training_sigma": self.training_sigma,
        }
        if self.ladder.torsional is not None:
            tensors["torsional"] = self.ladder.torsional.contiguous()
        if self.ladder.pairs is not None:
            # copies: a file cannot hold the model's own tensors twice
            tensors |= {f"pairs.{name}": value.clone() for name, value in self.ladder.pairs.state().items()}
        metadata = {
            "kind": "generator",
            "system": self.system.name,
            "system_digest": self.system.ensemble_digest,
            "model": model.describe(),
            "coordinates": description,
            "config": self.config.model_dump(mode="json"),
        }
        save_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: Path | str, system: System, *, device: str = "cpu") -> "BoltzmannGenerator":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: the file is damaged or was trained for another system.
        """
        tensors, metadata = load_tensors(path)
        if metadata.get("kind") != "generator":
            raise CheckpointError(f"{path}: is not a trained generator")
        if metadata["system_digest"] != system.ensemble_digest:
            raise CheckpointError(
                f"{path}: was trained for another density ({metadata['system']}) than {system.path} defines"
            )

        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        model = network_from_description(metadata["model"])
        model.load_state_dict(part("model."))
        model.to(device).requires_grad_(False)
        pairs = {name: tensor.to(device) for name, tensor in part("pairs.").items()}
        torsional = tensors.get("torsional")
        ladder = Ladder(
            model,
            tensors["sigma"].to(device),
            tensors["moments"].to(device),
            None if torsional is None else torsional.to(device),
            PairCurvature.from_state(pairs) if pairs else None,
        )
        return cls(
            system,
            coordinates_from_state(part("coordinates."), metadata["coordinates"]),
            ladder,
            tensors["normalisers"],
            tensors["training_sigma"],
            parse_config(metadata["config"]),
        )


@dataclass(frozen=True)
class Proposal:
    """Samples as the model draws them, before the target has been asked."""

    system: System
    coordinates: Coordinates
    paths: Paths

    def __len__(self) -> int:
        return len(self.paths.z)

    def reweight(self) -> "Ensemble":
        """Weight every sample to the exact Boltzmann density; one target energy per sample."""
        latent = LatentTarget(self.system.target, self.coordinates)
        z = self.paths.z.cpu()
        log_density, x = latent.log_density_and_x(z)
        log_weight = (log_density + self.paths.log_ratio.cpu()).numpy()
        log_det = self.coordinates.to_x(z)[1]
        energy = torch.where(torch.isfinite(log_density), log_det - log_density, torch.inf)
        return Ensemble(self.system, x.numpy(), energy.numpy(), log_weight)


@dataclass(frozen=True)
class Ensemble:
    """Weighted conformations: what averages and free energies are computed from.

    Args:
        x: ``(n, N, D)``, nm for molecules.
        energy: reduced energies ``(n,)``; inf where the geometry is impossible.
        log_weight: ``(n,)``; -inf where the weight is 0.
        family: ``(n,)`` numbers of first-generation ancestors, if samples were ever copied.
    """

    system: System
    x: NDArray[np.float64]
    energy: NDArray[np.float64]
    log_weight: NDArray[np.float64]
    family: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.log_weight)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Normalised weights ``(n,)``, summing to 1."""
        return normalised_weights(self.log_weight)

    @cached_property
    def diagnostics(self) -> WeightDiagnostics:
        """Effective sample sizes and what else the weights say about themselves."""
        found = weight_diagnostics(family_log_weights(self.log_weight, self.family))
        # families that died out have no weight, but nothing was wrong with their energies
        return replace(found, n_nonfinite=int(np.count_nonzero(~np.isfinite(self.log_weight))))

    @property
    def ess(self) -> float:
        """Kish's effective sample size as a fraction of n, (Σw)²/(n Σw²); of families, if there are any."""
        return self.diagnostics.ess_kish

    @cached_property
    def observables(self) -> dict[str, NDArray[np.float64]]:
        """The system's observables, each ``(n,)``; torsions in radian."""
        return self.system.observables(self.x)

    @property
    def log_z(self) -> Estimate:
        """log ∫ exp(-u) dx; for molecules per unit volume of translation and per radian³ of rotation."""
        return log_z(self.log_weight, family=self.family)

    def free_energy_difference(self, name: str) -> Estimate:
        """F_final - F_initial in kT of a difference that ``system.yaml`` names.

        Raises:
            ConfigError: there is no such difference.
            EmptyBasinError: no sample lies in one of its basins.
        """
        for spec in self.system.differences:
            if spec.name == name:
                initial, final = (
                    self.system.basin(basin, self.observables) for basin in (spec.initial, spec.final)
                )
                return free_energy_difference(self.log_weight, initial, final, family=self.family)
        known = ", ".join(spec.name for spec in self.system.differences) or "none"
        raise ConfigError(
            f"system {self.system.name} has no free-energy difference {name!r}; it has: {known}"
        )

    def expectation(self, values: NDArray[np.float64]) -> Estimate:
        """Boltzmann average of values ``(n,)``, one per sample."""
        return expectation(self.log_weight, values, family=self.family)

    def trajectory(self) -> "mdtraj.Trajectory":
        """All samples, unweighted, as an mdtraj trajectory; use :attr:`weights` beside it.

        Particles of a cluster are atoms of argon without bonds; nm stand for reduced units of length, and
        z is 0 for what lies in a plane.

        Raises:
            ConfigError: the system is neither a molecule nor a cluster.
        """
        import mdtraj

        topology = topology_of(self.system)
        if topology is None:
            raise ConfigError(
                f"system {self.system.name} is neither a molecule nor a cluster that mdtraj could show; "
                "use .x instead"
            )
        return mdtraj.Trajectory(in_space(self.x).astype(np.float32), topology)


def train(
    system: System,
    data: "Dataset",
    *,
    preset: str = "standard",
    seed: int = 0,
    device: str = "cpu",
    overrides: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> BoltzmannGenerator:
    """Train a generator on a data set.

    Args:
        preset: quick, standard or best.
        overrides: settings to change, such as ``{"training": {"steps": 500}}``.

    Raises:
        ConfigError: a setting is out of range.
        DataError: the data set is too small or damaged.
    """
    recommended = system.spec.settings
    config = make_config(preset, seed=seed, device=device, recommended=recommended, overrides=overrides)
    if config.training.relabel_hydrogens:
        data = relabelled(system, data, config.seed)
    prepared = prepare(system, data, config)
    trainer = make_trainer(prepared, config)
    trainer.run(progress=progress)
    return finish(system, prepared, trainer)


def make_trainer(prepared: Prepared, config: RunConfig) -> Trainer:
    """A trainer that has not begun."""
    return Trainer(
        prepared.training,
        prepared.held_out,
        prepared.coordinates,
        config,
        prepared.latent,
        prepared.particle_types,
    )


def finish(
    system: System, prepared: Prepared, trainer: Trainer, progress: Progress = silent
) -> BoltzmannGenerator:
    """Turn a finished training into a generator: averaged weights, reverse steps, well-placed rungs.

    The scores' second moments, and the curvature along torsions or of pairs of particles, are measured on the
    training rungs and interpolated between them; a pilot walk up those rungs then says where rungs are
    needed. The normalisers that training learned by stochastic steps are brought to DiffCLF's optimum for
    the averaged energies.
    """
    config, settings, sigma = trainer.config, trainer.config.ladder, trainer.sigma
    z = prepared.training.z.to(trainer.device)

    def some(count: int, purpose: str) -> Tensor:
        order = torch.randperm(len(z), generator=generator_for(config.seed, purpose, "pick"))
        return z[order[: min(len(z), count)].to(z.device)]

    def stream(purpose: str) -> torch.Generator:
        return generator_for(config.seed, purpose, device=trainer.device)

    n_pilot, model = settings.pilot_samples, trainer.average
    particles, periodic = is_particle_model(model), bool(trainer.periodic.any())
    rungs = len(sigma) - 1
    classified = trainer.settings.learns_normalisers and settings.normaliser_samples > 0
    before_pilot = rungs * (1 + (periodic or particles))
    total = before_pilot + rungs * (bool(n_pilot) + classified)

    def after(start: int) -> Progress:
        return lambda done, of, text="": progress(start + done * rungs // of, total, text)

    data = some(settings.moment_samples, "moments")
    enough = len(data)
    if is_particle_model(model):  # one moment for all axes: a point tells it once for every particle
        enough = max(_FEWEST_MOMENTS, enough // model.event_shape[0])
    moments = measure_moments(model, sigma, data[:enough], stream("moments"), progress=after(0))
    torsional = measure_curvature(
        model, sigma, data[:_CURVATURE_SAMPLES], stream("curvature"), progress=after(rungs)
    )
    pairs = None
    if is_particle_model(model):
        pairs = measure_pairs(model, sigma, moments, data, stream("pairs"), progress=after(rungs))
    measured = Ladder(model, sigma, moments, torsional, pairs)
    normalisers = trainer.normalisers
    if classified:
        # a small share of what training saw
        points = trainer.settings.steps * trainer.settings.batch_size // 400
        points = min(max(_FEWEST_POINTS, points), settings.normaliser_samples)
        normalisers = _polished(measured, normalisers, z, points, stream("polish"), after(total - rungs))
    if n_pilot:
        pilot = some(n_pilot, "pilot")
        variances = measured.step_variances(pilot, stream("pilot"), progress=after(before_pilot))
        levels = even_levels(sigma, variances, settings.n_rungs)
    else:
        levels = noise_levels(settings.n_rungs, settings.sigma_min, settings.sigma_max).to(sigma.device)
    return BoltzmannGenerator(
        system,
        prepared.coordinates,
        measured.at(levels),
        normalisers.cpu(),
        sigma.cpu(),
        config,
    )


def _polished(
    ladder: Ladder, learned: Tensor, z: Tensor, points: int, generator: torch.Generator, progress: Progress
) -> Tensor:
    """Learned normalisers of the training rungs, solved for with ``points`` of noised data at each."""
    width = data_width(ladder)
    try:
        solved = solve_normalisers(
            ladder.model, ladder.sigma, width, z, generator, initial=learned, points=points, spacing=1.0,
            progress=progress,
        )  # fmt: skip
    except DataError as problem:  # nothing but free energies from f_k themselves depends on it
        _LOG.warning("the learned normalisers stay as training left them: %s", problem)
        return learned
    return polish(learned, ladder.sigma, width, solved)


def join_paths(parts: list[Paths]) -> Paths:
    """Chunks of walks as one."""
    fields = ("z", "log_ratio", "z_low", "log_weight_low")
    return Paths(*(torch.cat([getattr(part, field) for part in parts]) for field in fields))
