r"""The normalisers f_k = -log Z_k of a model's rungs, solved by MBAR on noised data.

DiffCLF learns f_k together with the energies, by stochastic steps. With the energies given, its optimum over
the f_k is reverse logistic regression, which is MBAR (Geyer 1994; arXiv 2601.21025): data noised to the rungs
are the samples, the model's energies -log p̃_θ(z, σ_k) the energies. That checks what was learned, on data
that training has not seen, and polishes it, on the training data. Training leaves two errors: the scatter of
its last steps, and, where energies are wrong, that of telling rungs apart in pairs at some distance, whose
optimum is then another one than that of all rungs together.

The chance scatter of the f_k is mostly that of |z|² at large noise: an error in ln σ of the mean of one rung
adds up over all rungs below. Noise is therefore drawn in fours, ε, -ε, ε' and -ε', where ε' has the direction
of ε and the complementary quantile of |ε|² (antithetic variates, Hammersley & Morton 1956); each is normal by
itself, so nothing is biased. Data points are taken at even ranks of |z_0|². At small noise the scatter of the
data themselves is left, so low rungs get more points.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bgdiff.errors import DataError
from bgdiff.free_energy.estimate import Estimate
from bgdiff.free_energy.multistate import Multistate, mbar
from bgdiff.ladder.densities import wrapped
from bgdiff.ladder.levels import statistical_length
from bgdiff.ladder.rung_samples import spaced_rungs, within_reach
from bgdiff.models.base import EnergyModel
from bgdiff.progress import Progress, silent

__all__ = ["NormaliserCheck", "SolvedNormalisers", "check_normalisers", "polish", "solve_normalisers"]

Array = NDArray[np.float64]

_MOST_POINTS = 4096  # rows the network sees at once


@dataclass(frozen=True, eq=False)
class SolvedNormalisers:
    """MBAR's solution on some rungs.

    Attributes:
        rungs: numbers of the rungs, rising, from 1 to K.
        states: the solution, one state for each of them.
    """

    rungs: tuple[int, ...]
    states: Multistate

    @property
    def values(self) -> Array:
        """f_k of the rungs ``(R,)`` in kT; f_K = 0."""
        found = self.states.free_energies
        return np.asarray(found - found[-1])

    @property
    def std_error(self) -> Array:
        """Their standard errors ``(R,)``, over independent units."""
        return np.array([*(one.std_error for one in self.estimates), 0.0])

    @cached_property
    def estimates(self) -> list[Estimate]:
        """f_k - f_K of all rungs but the last."""
        top = len(self.rungs) - 1
        return [self.states.difference(top, i) for i in range(top)]


def solve_normalisers(
    model: EnergyModel,
    sigma: Tensor,
    width: Tensor,
    z: Tensor,
    generator: torch.Generator,
    *,
    unit: Tensor | None = None,
    initial: Tensor | None = None,
    points: int = 3000,
    spacing: float = 1.5,
    reach: float | None = 5.0,
    progress: Progress = silent,
) -> SolvedNormalisers:
    """Solve MBAR for the normalisers of rungs along a ladder, from noised data.

    Args:
        sigma: noise of the rungs ``(K+1,)``, from 0.
        width: variances of the clean data's axes ``(d,)`` (:func:`bgdiff.ladder.rung_samples.data_width`).
        z: data ``(n, d)``; basins may be in any proportion, as long as the model has learned the same one.
        unit: labels ``(n,)`` of independent units of the data, such as chains; they decide the errors only.
            Each should have points enough to be seen at every rung. By default the data are taken as given:
            errors are those of the noise alone.
        initial: f_k to start from ``(K+1,)``.
        points: noised points at a rung; up to four times as many where there is little noise.
        spacing: statistical length between the rungs that are used.
        reach: rungs farther than this statistical length (of the real axes) from a point's own do not count
            for it, which saves time and is wrong by about e^(-reach²/4); None: all count.

    Raises:
        DataError: there are fewer than four data points.
        NoOverlapError, NotConvergedError: as :func:`~bgdiff.free_energy.multistate.mbar` says.
    """
    if len(z) < 4:
        raise DataError(f"normalisers: {len(z)} data points are too few to noise; at least 4 are needed")
    sigma, z = sigma.to(z.device), z.to(torch.float64)
    length = statistical_length(sigma, width)
    rungs = spaced_rungs(length, spacing)
    periodic = model.periodic.to(z.device)
    order = _radial(z, periodic).square().sum(1).argsort()
    parts: list[Tensor] = []
    rows: list[Tensor] = []
    for rung in rungs:
        level = float(sigma[rung])
        fours = int(np.ceil(points / 4 * (1 + 3 / (1 + level**2))))
        offset = torch.rand(1, generator=generator, device=z.device, dtype=torch.float64)
        rank = (torch.arange(fours, device=z.device) + offset) * (len(z) / fours)
        chosen = order[rank.long().clamp_max(len(z) - 1)].repeat(4)
        noise = _antithetic(fours, periodic, generator).to(z.device)
        parts.append(wrapped(z[chosen] + level * noise, periodic))
        rows.append(chosen)
    near = within_reach(sigma, width, periodic, reach)[list(rungs)][:, list(rungs)]
    energy = _energies(model, sigma[list(rungs)], parts, near, progress)
    if unit is None:
        sizes = [len(part) // 4 for part in parts]
        starts = np.cumsum([0, *sizes])
        own = [start + torch.arange(size).repeat(4) for start, size in zip(starts, sizes, strict=False)]
        labels = torch.cat(own)
    else:
        labels = unit.to(z.device)[torch.cat(rows)].cpu()
    guess = None if initial is None else initial[list(rungs)].cpu().double().numpy()
    counts = np.array([len(part) for part in parts])
    return SolvedNormalisers(rungs, mbar(energy, counts, initial=guess, unit=labels.numpy()))


def polish(learned: Tensor, sigma: Tensor, width: Tensor, solved: SolvedNormalisers) -> Tensor:
    """Learned normalisers ``(K+1,)`` brought to the solution on some rungs.

    Between those rungs the correction is interpolated in statistical length (monotone cubic). f_0 of the
    target, which data at noisy rungs say nothing about, moves with f_1; f_K = 0.

    Args:
        sigma, width: as for :func:`solve_normalisers`.
    """
    from scipy.interpolate import PchipInterpolator

    rungs = list(solved.rungs)
    length = statistical_length(sigma, width).cpu().numpy()
    before = (learned - learned[-1]).cpu().double().numpy()
    change = PchipInterpolator(length[rungs], solved.values - before[rungs])(length[1:])
    after = before + np.concatenate([change[:1], change])
    after[-1] = 0.0
    return torch.from_numpy(after).to(learned.device)


@dataclass(frozen=True, eq=False)
class NormaliserCheck:
    """Learned normalisers beside MBAR's, in kT, all relative to the prior.

    Attributes:
        rungs: ``(R,)``; the top rung, where both are 0, is left out.
        sigma: their noise ``(R,)``.
        learned: f_k ``(R,)``.
        estimates: the reference with its errors, ``R`` of them.
    """

    rungs: tuple[int, ...]
    sigma: Array
    learned: Array
    estimates: Sequence[Estimate]

    @property
    def reference(self) -> Array:
        """f_k by MBAR ``(R,)``."""
        return np.array([one.value for one in self.estimates])

    @property
    def std_error(self) -> Array:
        """Of the reference ``(R,)``."""
        return np.array([one.std_error for one in self.estimates])

    @property
    def difference(self) -> Array:
        """learned - reference ``(R,)``."""
        return np.asarray(self.learned - self.reference)

    @property
    def largest(self) -> Estimate:
        """The difference that is largest in size, with its error."""
        at = int(np.abs(self.difference).argmax())
        return replace(
            self.estimates[at],
            value=float(self.difference[at]),
            method=f"learned normaliser against MBAR at rung {self.rungs[at]} (sigma = {self.sigma[at]:.3g})",
            diagnostics={
                "rms": self.rms,
                "rms_of_errors": float(np.sqrt(np.mean(self.std_error**2))),
                "n_rungs": len(self.rungs),
            },
        )

    @property
    def rms(self) -> float:
        """Root mean square of the differences; the errors of the reference are in it."""
        return float(np.sqrt(np.mean(self.difference**2)))


def check_normalisers(learned: Tensor, sigma: Tensor, solved: SolvedNormalisers) -> NormaliserCheck:
    """Compare normalisers ``(K+1,)`` of a ladder with a solution on data that training has not seen."""
    rungs = solved.rungs[:-1]
    values = (learned - learned[-1]).cpu().double().numpy()[list(rungs)]
    level = sigma.cpu().double().numpy()[list(rungs)]
    return NormaliserCheck(rungs, level, values, solved.estimates)


def _radial(z: Tensor, periodic: Tensor) -> Tensor:
    """The axes whose squares are summed: the real ones, or all if there is none."""
    return z if bool(periodic.all()) else z[:, ~periodic]


def _antithetic(fours: int, periodic: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise ``(4 fours, d)`` in blocks ε, -ε, ε', -ε'."""
    from scipy.stats import chi2

    shape = (fours, len(periodic))
    noise = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
    radial = periodic.to(noise.device) & ~periodic.all().to(noise.device)
    square = noise.masked_fill(radial, 0.0).square().sum(1)
    freedom = len(periodic) - int(radial.sum())
    other = torch.from_numpy(chi2.isf(chi2.cdf(square.cpu().numpy(), freedom), freedom)).to(noise)
    stretch = (other / square).sqrt()[:, None]
    complement = torch.where(radial, noise, stretch * noise)
    return torch.cat([noise, -noise, complement, -complement])


def _energies(
    model: EnergyModel, sigma: Tensor, parts: list[Tensor], near: Tensor, progress: Progress
) -> Array:
    """u of every rung at every point ``(R, N)``, +inf where rungs are not ``near`` ``(R, R)``."""
    columns = []
    for own, points in enumerate(parts):
        block = torch.full((len(sigma), len(points)), torch.inf, dtype=torch.float64)
        for rung in range(len(sigma)):
            if not near[own, rung]:
                continue
            level = sigma[rung].to(points).reshape(1)
            with torch.no_grad():
                values = [model.log_density(part, level) for part in points.split(_MOST_POINTS)]
            block[rung] = -torch.cat(values).to("cpu", torch.float64)
        columns.append(block)
        progress(own + 1, len(parts))
    return torch.cat(columns, 1).numpy()
