"""What compositions are made of besides models: potentials, models on other latents, rungs as targets."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from bgdiff.errors import ConfigError
from bgdiff.models.base import EnergyModel, log_density_and_score

if TYPE_CHECKING:
    from bgdiff.coordinates.change import LatentChange
    from bgdiff.models.composition import Composition

__all__ = [
    "ChangedLatents",
    "CombinedTarget",
    "Normaliser",
    "NormaliserTable",
    "Potential",
    "RungTarget",
    "TargetLike",
    "noise_range",
]

Normaliser = tuple[Tensor, Tensor] | float | None
"""f = -log Z of a part: at rising noise levels, both ``(n,)``; or the same at all of them; None for 0."""


class TargetLike(Protocol):
    """A density at rung 0; see :class:`bgdiff.ladder.densities.LatentDensity`."""

    def log_density(self, z: Tensor) -> Tensor:
        """Unnormalised log density ``(B,)``."""
        ...

    def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density ``(B,)`` and its gradient ``(B, d)``."""
        ...


class Potential:
    """A restraint or bias b(z) as a factor of products: log p̃(z, σ) = -b(z) / (1 + σ²/w²)².

    No density by itself. It is in full force at rung 0 and fades where the noise is larger than its width w.
    A harmonic restraint of stiffness k fades faster than the k/(1 + kσ²) of a noised one, so that at the top
    it is gone beside the prior. Its rungs shape only the way; exact are the weights.

    Args:
        energy: b, from latents ``(B, d)`` to reduced energies ``(B,)`` in kT, differentiable in torch. For a
            bias of conformations, ``lambda z: bias(coordinates.to_x(z)[0])``.
        periodic: bool ``(d,)``, as for the models it will be multiplied with.
        width: w, in latents: about the distance over which b rises by 1 kT; small for steep restraints.

    Raises:
        ConfigError: the width is not positive.
    """

    def __init__(self, energy: Callable[[Tensor], Tensor], periodic: Tensor, width: float = 1.0) -> None:
        if not 0 < width < math.inf:
            raise ConfigError(f"the width of a potential must be positive, not {width}")
        self.energy, self.periodic, self.width = energy, periodic, width

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        """-b(z), faded, ``(B,)``."""
        strength = (1 + (sigma.to(torch.float64) / self.width) ** 2) ** -2
        return -strength * self.energy(z)


class ChangedLatents:
    """A model trained on other latents of the same conformations, seen from these.

    log p̃(z, σ) = log p̃'(z'(z), σ) + log|det dz'/dz|, with the change of
    :func:`bgdiff.coordinates.change.change_latents`. Where two whitenings differ, so do noise of equal σ and
    the normal density at the top. For data of nearly the same widths that costs little.

    Args:
        model: on the latents z'.
        change: z → z'.
    """

    def __init__(self, model: EnergyModel, change: "LatentChange") -> None:
        self.model, self.change, self.periodic = model, change, model.periodic
        self.sigma_min, self.sigma_max = noise_range(model)

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Unnormalised log density in the volume of z, ``(B,)``."""
        return self.model.log_density(self.change(z), sigma) + self.change.log_det


class RungTarget:
    """A rung of a model as the target: rung 0 of one that is known in closed form.

    Args:
        sigma: its noise.
    """

    def __init__(self, model: EnergyModel, sigma: float = 0.0) -> None:
        self.model, self.sigma = model, torch.tensor([sigma], dtype=torch.float64)

    def log_density(self, z: Tensor) -> Tensor:
        """Unnormalised log density ``(B,)``, float64."""
        with torch.no_grad():
            return self.model.log_density(z, self.sigma.to(z.device)).to(torch.float64)

    def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same with its gradient ``(B, d)``."""
        value, score = log_density_and_score(self.model, z, self.sigma.to(z.device))
        return value.to(torch.float64), score.to(torch.float64)


class CombinedTarget:
    """A composition of true densities; made by :meth:`bgdiff.models.composition.Composition.target`.

    Args:
        targets: one for each part of ``model``, None for parts known at σ = 0.
        offsets: -log Z of the parts, ``(P, 1)`` or broadcasting to it, for mixtures.

    Raises:
        ConfigError: as for ``Composition.target``.
    """

    def __init__(self, model: "Composition", targets: Sequence[TargetLike | None], offsets: Tensor) -> None:
        if len(targets) != len(model.parts):
            raise ConfigError(f"{len(targets)} targets do not belong to the {len(model.parts)} parts")
        parts: list[TargetLike] = []
        for number, (target, part) in enumerate(zip(targets, model.parts, strict=True)):
            if target is None and noise_range(part)[0] > 0:
                raise ConfigError(
                    f"part {number} ({type(part).__name__}) is not known without noise; give its target"
                )
            parts.append(RungTarget(part) if target is None else target)
        self.model, self.parts, self.offsets = model, tuple(parts), offsets

    def log_density(self, z: Tensor) -> Tensor:
        """Unnormalised log density ``(B,)``, float64."""
        values = torch.stack([part.log_density(z).to(torch.float64) for part in self.parts])
        return self.model.combine(values, self.offsets.to(values.device))[0]

    def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same with its gradient ``(B, d)``."""
        pairs = [part.log_density_and_score(z) for part in self.parts]
        return self.model.combine_scores(pairs, self.offsets)


class NormaliserTable(nn.Module):
    """f(σ) = -log Z(σ), piecewise linear in ln σ; at σ = 0 and beyond its ends that of the nearest level.

    Args:
        sigma: rising ``(n,)``; the first may be 0, and is not interpolated to.
        value: f ``(n,)``.

    Raises:
        ConfigError: the two do not belong together, levels do not rise, or f is not finite.
    """

    sigma: Tensor
    value: Tensor

    def __init__(self, sigma: Tensor, value: Tensor) -> None:
        super().__init__()
        if sigma.shape != value.shape or sigma.ndim != 1 or len(sigma) == 0:
            raise ConfigError(
                f"normalisers: {tuple(value.shape)} values do not belong to {tuple(sigma.shape)} noise levels"
            )
        rising = bool((sigma.diff() > 0).all()) and float(sigma[0]) >= 0
        if not rising or not bool(torch.isfinite(value).all()):
            raise ConfigError("normalisers must be finite, at rising noise levels")
        self.register_buffer("sigma", sigma.detach().to(torch.float64))
        self.register_buffer("value", value.detach().to(torch.float64))

    @classmethod
    def of(cls, given: Normaliser) -> "NormaliserTable":
        """A table of what a user gives."""
        if isinstance(given, tuple):
            return cls(*given)
        return cls(torch.zeros(1), torch.tensor([0.0 if given is None else given], dtype=torch.float64))

    def forward(self, sigma: Tensor) -> Tensor:
        """f ``(B,)`` at σ ``(B,)``."""
        sigma, noisy = sigma.to(torch.float64), self.sigma > 0
        level, value = self.sigma[noisy].log(), self.value[noisy]
        if len(level) < 2:
            return torch.where(sigma > 0, self.value[-1], self.value[0])
        right = torch.searchsorted(level, sigma.log()).clamp(1, len(level) - 1)
        share = (sigma.log() - level[right - 1]) / (level[right] - level[right - 1])
        f = torch.lerp(value[right - 1], value[right], share.clamp(0, 1))
        return torch.where(sigma > 0, f, self.value[0])


def noise_range(model: object) -> tuple[float, float]:
    """Lowest and highest noise at which a model is defined; 0 and inf if it does not say."""
    return float(getattr(model, "sigma_min", 0.0)), float(getattr(model, "sigma_max", math.inf))
