"""Estimates from equilibrium samples of the rungs: MBAR over all of them, and integration over the noise.

The samples come from independent populations of sequential Monte Carlo, one file each in ``RUN/free-energy``.
Particles of one population depend on each other, so populations are the units of all errors. The effective
number of samples is the one at which independent samples would give the same error, 1/(σ² + 1/n).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from bgdiff.analysis.free_energy_results import Rungs
from bgdiff.coordinates import LatentTarget
from bgdiff.correction import Corrector, Pilot, run_pilot
from bgdiff.errors import CheckpointError
from bgdiff.free_energies.estimates import Repeats
from bgdiff.free_energies.samples import FOLDER
from bgdiff.free_energy.bennett import bar
from bgdiff.free_energy.estimate import Estimate
from bgdiff.free_energy.judgement import LEAST_OVERLAP, Candidate
from bgdiff.free_energy.multistate import Multistate
from bgdiff.free_energy.rung_estimates import integrate_noise, log_z_by_mbar, mbar_of_rungs
from bgdiff.generator import BoltzmannGenerator
from bgdiff.io import load_tensors, make_directory, save_tensors
from bgdiff.ladder.densities import TargetDensity
from bgdiff.ladder.rung_samples import (
    RungSamples,
    chosen_rungs,
    energy_matrix,
    join_samples,
    rung_samples,
)
from bgdiff.random import generator_for
from bgdiff.regions import Region, region_values

if TYPE_CHECKING:
    from bgdiff.free_energies import Stages
    from bgdiff.run import Run

__all__ = ["INTEGRATION", "LEARNED", "MBAR", "RungStudy"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

MBAR = "MBAR over rungs"
INTEGRATION = "TI over noise"
LEARNED = "learned normalisers"
_SET = "samples of every rung"
_POPULATIONS = 20
_PILOT = 64  # particles that tune the moves
_LOG_SPACING = 0.3
_NEGLIGIBLE = 50.0  # kT
_REACH = 5.0  # statistical length beyond which rungs do not overlap; see energy_matrix


class RungStudy:
    """Samples of the rungs of a trained run, drawn when they are first needed.

    Args:
        n_samples: of every rung, rounded down to equal populations.
        stages: shows progress.
    """

    def __init__(
        self, run: "Run", generator: BoltzmannGenerator, n_samples: int, repeats: Repeats, stages: "Stages"
    ) -> None:
        self._run, self._generator, self._particles = run, generator, n_samples // _POPULATIONS
        self._repeats, self._stages = repeats, stages

    @cached_property
    def samples(self) -> RungSamples:
        """Points of the target, the chosen rungs and the prior; what was drawn before is read."""
        folder = make_directory(self._run.file(FOLDER))
        files = [folder / f"rungs-{self._particles}-{unit:03d}.safetensors" for unit in range(_POPULATIONS)]
        rungs = self._rungs()
        found = [self._stored(file, rungs) for file in files]
        if None in found:
            corrector = self._corrector()
            with self._stages("sample the rungs") as progress:
                for unit, file in enumerate(files):
                    if found[unit] is None:

                        def report(k: int, of: int, text: str = "", *, unit: int = unit) -> None:
                            progress(unit * of + k, _POPULATIONS * of, text)

                        stream = generator_for(self._repeats.seed, "rungs", unit, device=self._device)
                        one = rung_samples(
                            corrector.plan, rungs, self._particles, stream, target=self._target, unit=unit,
                            progress=report,
                        )  # fmt: skip
                        tensors = {"z": one.z, "unit": one.unit, "sigma": self._generator.ladder.sigma}
                        save_tensors(
                            file, tensors, {"kind": "rungs", "rungs": one.rungs, "counts": one.counts}
                        )
                        found[unit] = one
        return join_samples([one for one in found if one is not None])

    @cached_property
    def energy(self) -> Array:
        """Energies of all points in all states."""
        samples = self.samples  # drawn first, with its own progress
        file = self._run.file(FOLDER) / f"rung-energies-{self._particles}.safetensors"
        mark = samples.z.cpu().sum(0)
        try:
            tensors, _ = load_tensors(file)
            if torch.equal(tensors["mark"], mark):
                return np.asarray(tensors["energy"].numpy())
        except CheckpointError:
            pass  # missing or damaged: it is made again
        with self._stages("energies of the rungs") as progress:
            energy = energy_matrix(samples, self._target, reach=_REACH, progress=progress)
        save_tensors(file, {"energy": torch.from_numpy(energy), "mark": mark}, {"kind": "rung energies"})
        return energy

    @cached_property
    def states(self) -> Multistate:
        """MBAR's solution; state 0 is the target, the last one the prior."""
        energy, samples = self.energy, self.samples
        with self._stages("MBAR"):
            return mbar_of_rungs(
                samples, energy, initial=self._learned_at_rungs(), bootstrap=self._repeats.bootstrap,
                seed=self._repeats.seed,
            )  # fmt: skip

    def log_z(self) -> Candidate:
        """log Z of the target by MBAR."""
        return self._candidate(log_z_by_mbar(self.states))

    def difference(self, initial: Region, final: Region) -> Candidate:
        """F_final - F_initial of two regions of the target, by MBAR.

        Raises:
            EmptyBasinError: a region holds no point with weight.
        """
        names = initial.name, final.name
        masks = self.masks([initial, final])
        return self._candidate(self.states.region_difference(0, *masks, names=names))

    def integrated_log_z(self) -> Candidate:
        """log Z by integration of ⟨∂u/∂ln σ⟩ over the noise; by Bennett for the first and the last step."""
        with np.errstate(invalid="ignore"):  # rungs out of reach have no energies to subtract
            estimate = integrate_noise(self.samples, self.energy)
        return Candidate(INTEGRATION, estimate, {_SET: self.samples.counts[0]})

    def learned_log_z(self) -> Candidate | None:
        """log Z from the learned normalisers: -f_0, or f_1 and the step to the target by Bennett."""
        learned = self._learned_at_rungs()
        if learned is None:
            return None
        if self._run.config.training.with_target:
            text = "learned normaliser of the target, f_0; its error is that of the training"
            estimate = Estimate(-float(self._generator.normalisers[0]), math.nan, text, math.nan)
        else:
            step = self._step(0, 1)  # F_1 - F_0
            text = "learned normaliser f_1 and Bennett's step to the target; the error is that of the step"
            value = step.value - float(learned[1])
            estimate = Estimate(value, step.std_error, text, math.nan, step.overlap)
        return Candidate(LEARNED, estimate, {_SET: self.samples.counts[0]}, exact=False)

    def record(self) -> Rungs:
        """Free energies of the rungs and their overlap."""
        states, last = self.states, len(self.samples.rungs) - 1
        learned = self._learned_at_rungs()
        return Rungs(
            sigma=self.samples.sigma.tolist(),
            learned=[]
            if learned is None
            else [None if math.isnan(f) else float(f) for f in self._known(learned)],
            mbar=(states.free_energies - states.free_energies[last]).tolist(),
            mbar_std_error=[*(states.difference(last, k).std_error for k in range(last)), 0.0],
            overlap=states.overlap_matrix.tolist(),
        )

    def masks(self, regions: Sequence[Region]) -> list[Mask]:
        """Which of all points ``(N,)`` lie in each region; points without weight at the target in none."""
        log_weight = self.states.log_weight(0)
        rows = np.flatnonzero(log_weight > log_weight.max() - _NEGLIGIBLE)
        masks = [np.zeros(len(log_weight), dtype=np.bool_) for _ in regions]
        for part in np.array_split(rows, max(len(rows) // 4096, 1)):
            x, _ = self._generator.coordinates.to_x(self.samples.z[torch.from_numpy(part)].cpu())
            values = region_values(regions, self._run.system, x)
            for mask, region in zip(masks, regions, strict=True):
                mask[part] = region.mask(values)
        return masks

    def _step(self, low: int, high: int) -> Estimate:
        """F_high - F_low of neighbouring states."""
        samples, energy = self.samples, self.energy
        rows = [samples.rows(low), samples.rows(high)]
        works = [energy[high, rows[0]] - energy[low, rows[0]], energy[low, rows[1]] - energy[high, rows[1]]]
        units = [samples.unit[one].numpy() for one in rows]
        return bar(*works, forward_unit=units[0], reverse_unit=units[1])

    def _candidate(self, estimate: Estimate) -> Candidate:
        diagnostics = {**estimate.diagnostics, "n_populations": _POPULATIONS}
        worth = replace(estimate, n_eff=self._worth(estimate.std_error), diagnostics=diagnostics)
        # the populations of the target came down the ladder: they are no second side
        return Candidate(MBAR, worth, {_SET: self.samples.counts[0]}, least_overlap=LEAST_OVERLAP)

    def _worth(self, error: float) -> float:
        if not math.isfinite(error):
            return 0.0
        return 1 / (error**2 + 1 / len(self.samples.z))

    def _learned_at_rungs(self) -> Array | None:
        """Learned f of the states, by a spline in ln σ over the rungs of training; None if not learned."""
        from scipy.interpolate import CubicSpline

        if not self._run.config.training.learns_normalisers:
            return None
        f = self._generator.normalisers.cpu().numpy()
        sigma, wanted = self._generator.training_sigma.cpu().numpy(), self.samples.sigma.cpu().numpy()
        learned = CubicSpline(np.log(sigma[1:]), f[1:])(np.log(np.maximum(wanted, sigma[1])))
        if self._run.config.training.with_target:
            learned[0] = f[0]
        learned[-1] = 0.0  # the prior
        return np.asarray(learned)

    def _known(self, learned: Array) -> Array:
        """The target's is known only if training classified against it."""
        return learned if self._run.config.training.with_target else np.concatenate([[np.nan], learned[1:]])

    def _rungs(self) -> tuple[int, ...]:
        """Rungs that overlap well with their neighbours, and dense enough in ln σ to integrate over it."""
        ladder = self._generator.ladder
        chosen, kept = set(chosen_rungs(ladder)), [1]
        position = torch.log(ladder.sigma[1:]).tolist()
        for k in range(1, ladder.n_rungs + 1):
            following = position[min(k, ladder.n_rungs - 1)]
            if k in chosen or following - position[kept[-1] - 1] > _LOG_SPACING:
                kept.append(k)
        return tuple(sorted(set(kept)))

    def _corrector(self) -> Corrector:
        """Moves at the rungs, tuned once per run."""
        move = self._run.config.correction.move
        settings = self._run.config.correction.model_copy(
            update={"overlap": None, "bridge_places": 0, "pilot_particles": _PILOT, "move": move or "mala"}
        )
        file = self._run.file(FOLDER) / "pilot.json"
        try:
            pilot = Pilot.load(file, settings)
        except (
            CheckpointError
        ):  # missing, damaged, or of other settings: samples of the rungs do not depend on it
            with self._stages("tune moves") as progress:
                pilot = run_pilot(self._generator, settings, seed=self._repeats.seed, progress=progress)
            pilot.save(file, settings)
        return Corrector(self._generator, settings, pilot)

    def _stored(self, file: Path, rungs: Sequence[int]) -> RungSamples | None:
        """What a file holds; None if it is missing, damaged or of another ladder, and is to be made again."""
        try:
            tensors, facts = load_tensors(file)
        except CheckpointError:
            return None
        ladder = self._generator.ladder
        if facts.get("kind") != "rungs" or facts["rungs"] != [0, *rungs]:
            return None
        if not torch.equal(tensors["sigma"], ladder.sigma.cpu()):
            return None
        return RungSamples(
            ladder, tuple(facts["rungs"]), tensors["z"], tuple(facts["counts"]), tensors["unit"]
        )

    @cached_property
    def _target(self) -> TargetDensity:
        latent = LatentTarget(self._run.system.target, self._generator.coordinates)
        return TargetDensity(latent, self._generator.ladder.model.periodic)

    @property
    def _device(self) -> torch.device:
        return self._generator.ladder.sigma.device
