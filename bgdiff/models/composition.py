r"""Products, powers and mixtures of energy models, which are energy models themselves.

    product    p ∝ Π_i p_i^a_i                  (:func:`product`; a restraint is one more factor)
    tempering  p ∝ p_1^β                        (:func:`tempered`)
    negation   p ∝ p_1 / p_2^γ                  (:func:`negated`)
    mixture    p = Σ_i w_i p_i                  (:func:`mixture`)

The rungs of a mixture of normalised parts are the noised mixture. The rungs of the others are products of
noised densities, which is *not* the noised product: for Gaussian mixtures already, modes weigh differently on
the way down than at its end, so that adding scores and walking down reaches the wrong density (Du et al.,
Reduce, Reuse, Recycle, ICML 2023, arXiv:2302.11552). Nothing here tries to mend that. A composition is an
unnormalised density at every rung, which is all that weights and moves need to be exact: sample it with
:func:`bgdiff.model_samples.sample_smc` (as do the Feynman-Kac correctors of Skreta et al., ICML 2025,
arXiv:2503.02819, in continuous time).

**Noise.** At high noise every part is N(0, 1+σ²) on the real axes, and Π p_i^a_i is N(0, (1+σ²)/A) with
A = Σ a_i. The rung of a composition with noise σ is therefore made of its parts at noise √A σ. Then its
variance grows by σ² along the ladder, as noising steps believe, so that the steps, moves and priors made for
models fit it, and compositions can be parts of compositions. For normal parts of equal variance, and for
tempered ones, the rungs are the exactly noised composition.

**When there is such a density.** A > 0 is necessary on real axes, and refused otherwise. With negative
exponents it is not sufficient: in every direction the numerator must fall off faster than the denominator.
For normal tails of variances c_1 and c_2, p_1/p_2^γ needs γ < 1 and γ c_1 < c_2, and then so has every rung;
a mixture falls off like its widest component in that direction. Angles need nothing.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from bgdiff.errors import ConfigError
from bgdiff.models.base import (
    EnergyModel,
    Network,
    ParticleModel,
    is_particle_model,
    log_density_and_score,
)
from bgdiff.models.composition_parts import (
    CombinedTarget,
    Normaliser,
    NormaliserTable,
    Potential,
    TargetLike,
    noise_range,
)

__all__ = ["Composition", "Mixture", "Product", "mixture", "negated", "product", "tempered"]


class Composition(Network):
    """An energy model made of others on the same latents.

    Parts that are networks are trained, moved between devices and stored with it; a composition of nothing
    but networks can be described and is saved like one network. It is a :class:`ParticleModel` if all of its
    parts are, with the same particles.

    Args:
        parts: at least one; :class:`~bgdiff.models.composition_parts.Potential` or models.

    Raises:
        ConfigError: the parts have different axes, or no noise level in common.
    """

    def __init__(self, parts: Iterable[EnergyModel]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        _check_axes(self.kind, self.parts)
        networks = {str(i): part for i, part in enumerate(self.parts) if isinstance(part, nn.Module)}
        self.networks = nn.ModuleDict(networks)
        self.register_buffer("periodic", self.parts[0].periodic.clone(), persistent=False)
        particles = [part for part in self.parts if is_particle_model(part)]
        if len(particles) == len(self.parts) and _same_particles(particles):
            self.event_shape = particles[0].event_shape
            self.register_buffer("types", particles[0].types.clone(), persistent=False)

    @property
    def noise_scale(self) -> float:
        """Noise of the parts at noise 1 of the composition."""
        return 1.0

    @property
    def sigma_min(self) -> float:
        """Lowest noise at which all parts are defined, 0 for parts known in closed form."""
        return max(noise_range(part)[0] for part in self.parts) / self.noise_scale

    @property
    def sigma_max(self) -> float:
        """Highest noise at which all parts are defined; inf if nothing limits it."""
        return min(noise_range(part)[1] for part in self.parts) / self.noise_scale

    @property
    def divides(self) -> bool:
        """Whether an exponent is negative, here or in a part: then there need not be such a density."""
        return any(part.divides for part in self.parts if isinstance(part, Composition))

    @abstractmethod
    def combine(self, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """What the parts' log densities, ``(P, B)`` float64, make together.

        Args:
            offsets: -log Z of the parts, broadcasting against ``values``; only mixtures need them.

        Returns:
            The log density ``(B,)`` and its derivative with respect to each of the values ``(P, B)``, which
            is the weight of that part's score.
        """

    def offsets(self, sigma: Tensor) -> Tensor:
        """-log Z of the parts, ``(P, B)`` or broadcasting to it, at noise σ ``(B,)`` of the composition."""
        return torch.zeros(1, 1, dtype=torch.float64, device=sigma.device)

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Unnormalised log density ``(B,)``, float64."""
        values = [part.log_density(z, self.noise_scale * sigma).to(torch.float64) for part in self.parts]
        return self.combine(torch.stack(values), self.offsets(sigma))[0]

    def log_density_and_score(
        self, z: Tensor, sigma: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Log density ``(B,)`` and score ``(B, d)``, by each part's own fastest way; float64."""
        pairs = [
            log_density_and_score(part, z, self.noise_scale * sigma, create_graph=create_graph)
            for part in self.parts
        ]
        return self.combine_scores(pairs, self.offsets(sigma))

    def target(self, *targets: TargetLike | None) -> CombinedTarget:
        """The same composition of the parts' true densities: rung 0.

        Args:
            targets: one for each part: its :class:`~bgdiff.ladder.densities.LatentDensity`, such as a
                :class:`~bgdiff.coordinates.LatentTarget`; None for a part that is known at σ = 0.

        Raises:
            ConfigError: their number is wrong, or None stands for a learned part.
        """
        clean = torch.zeros(1, dtype=torch.float64, device=self.periodic.device)
        return CombinedTarget(self, targets, self.offsets(clean))

    def describe(self) -> dict[str, Any]:
        """JSON-able description.

        Raises:
            ConfigError: a part is not a network, so that it could not be made again; it is named.
        """
        for number, part in enumerate(self.parts):
            if not isinstance(part, Network):
                raise ConfigError(
                    f"part {number} of a {self.kind} is a {type(part).__name__}, which cannot be stored; "
                    "store the networks, and compose them again in the program that loads them"
                )
        described = [part.describe() for part in self.parts if isinstance(part, Network)]
        return {"kind": self.kind, "parts": described}

    def combine_scores(
        self, pairs: Sequence[tuple[Tensor, Tensor]], offsets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`combine`, for log densities with their scores ``(B, d)``; value and score."""
        values = torch.stack([value.to(torch.float64) for value, _ in pairs])
        value, weight = self.combine(values, offsets)
        # a part of no weight has no say, even where its score is not finite
        scores = [
            torch.where((w == 0)[:, None], 0.0, w[:, None] * score)
            for w, (_, score) in zip(weight, pairs, strict=True)
        ]
        return value, torch.stack(scores).sum(0)


class Product(Composition):
    """log p̃(z, σ) = Σ_i a_i log p̃_i(z, √A σ), A the sum of the exponents; see :mod:`this module
    <bgdiff.models.composition>` for the noise. Exponents of potentials are not in A, as they are gone at the
    top.

    Where a part of positive exponent has no density, neither has the product.

    Args:
        exponents: a_i, none of them 0; negative ones divide.

    Raises:
        ConfigError: numbers do not fit, an exponent is 0 or not finite, or A ≤ 0 though there are real axes.
    """

    kind = "product"

    def __init__(self, parts: Iterable[EnergyModel], exponents: Iterable[float]) -> None:
        super().__init__(parts)
        self.exponents = tuple(float(exponent) for exponent in exponents)
        _check_numbers("exponents", self.exponents, len(self.parts))
        if 0 in self.exponents:
            raise ConfigError("an exponent of a product is 0; leave that part out")
        pairs = zip(self.exponents, self.parts, strict=True)
        total = sum(exponent for exponent, part in pairs if not isinstance(part, Potential))
        if total <= 0 and not bool(self.periodic.all()):
            raise ConfigError(
                f"the exponents of a product sum to {total:g} (potentials left out). At high noise all parts "
                "are N(0, 1+σ²) on the real axes, so the sum must be positive for a density to exist; use "
                "smaller exponents for what is divided by"
            )
        self._noise_scale = total**0.5 if total > 0 else 1.0
        _check_range(self)

    @property
    def noise_scale(self) -> float:
        return self._noise_scale

    @property
    def divides(self) -> bool:
        return min(self.exponents) < 0 or super().divides

    def combine(self, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        weight = torch.tensor(self.exponents, dtype=torch.float64, device=values.device)[:, None]
        total = (weight * values).sum(0)
        nothing = ((values == -torch.inf) & (weight > 0)).any(0)
        return torch.where(nothing, -torch.inf, total), weight.expand_as(values)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"exponents": list(self.exponents)}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Self:
        return cls(_parts(description), description["exponents"])


class Mixture(Composition):
    """log p(z, σ) = log Σ_i w_i exp(log p̃_i(z, σ) + f_i(σ)), noised mixtures if f_i = -log Z_i.

    A wrong f_i(σ) at an intermediate rung costs weights but no exactness; at the rung where sampling
    ends (and in :meth:`target`), an error δ of f_1 - f_2 is one of δ in the log ratio of the parts.

    - Parts known in closed form are normalised: f = 0.
    - A trained model's f are what it learned by classification, ``(generator.training_sigma,
      generator.normalisers)``, known to a few hundredths of a kT; they are interpolated in ln σ.
    - A product's or a tempered model's are not known beforehand. ``sample_smc(part).log_z`` is its log Z at
      the lowest rung. One number may stand for all rungs, ``normalisers=(-log_z_1, …)``, at the price
      described.

    Args:
        weights: w_i, positive; divided by their sum.
        normalisers: for each part f_i, a number or a table of it; None for 0.

    Raises:
        ConfigError: numbers do not fit, weights or f are out of range, or a part is a potential.
    """

    kind = "mixture"

    def __init__(
        self,
        parts: Iterable[EnergyModel],
        weights: Iterable[float],
        normalisers: Sequence[Normaliser] | None = None,
    ) -> None:
        super().__init__(parts)
        given = tuple(float(weight) for weight in weights)
        _check_numbers("weights", given, len(self.parts))
        if min(given) <= 0:
            raise ConfigError(
                f"weights of a mixture must be positive, not {min(given):g}; leave that part out"
            )
        for number, part in enumerate(self.parts):
            if isinstance(part, Potential):
                raise ConfigError(
                    f"part {number} of a mixture is a potential, which is no density by itself; multiply the "
                    "other parts with it first"
                )
        self.weights = tuple(weight / sum(given) for weight in given)
        tables = [None] * len(self.parts) if normalisers is None else normalisers
        if len(tables) != len(self.parts):
            raise ConfigError(f"a mixture of {len(self.parts)} parts has {len(tables)} normalisers")
        self.tables = nn.ModuleList(NormaliserTable.of(table) for table in tables)
        _check_range(self)

    def combine(self, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.tensor(self.weights, dtype=torch.float64, device=values.device)
        logs = weights.log()[:, None] + offsets + values
        return torch.logsumexp(logs, 0), torch.softmax(logs, 0)

    def offsets(self, sigma: Tensor) -> Tensor:
        return torch.stack([table(sigma) for table in self.tables])

    def target(
        self, *targets: TargetLike | None, normalisers: Sequence[float] | None = None
    ) -> CombinedTarget:
        """The mixture of the parts' true densities: rung 0.

        Args:
            targets: as for :meth:`Composition.target`.
            normalisers: f_i = -log Z_i of the true densities; by default those of the model at its lowest
                level, right for closed forms, and for training that classified against the target.
        """
        if normalisers is None:
            return super().target(*targets)
        _check_numbers("normalisers", normalisers, len(self.parts))
        return CombinedTarget(self, targets, torch.tensor(normalisers, dtype=torch.float64)[:, None])

    def describe(self) -> dict[str, Any]:
        sizes = [int(table.get_buffer("value").numel()) for table in self.tables]
        return super().describe() | {"weights": list(self.weights), "levels": sizes}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Self:
        # the numbers themselves are in the state, as the parameters of networks are
        empty = [(torch.arange(n, dtype=torch.float64), torch.zeros(n)) for n in description["levels"]]
        return cls(_parts(description), description["weights"], empty)


def product(*parts: EnergyModel, exponents: Sequence[float] | None = None) -> Product:
    """p ∝ Π_i p_i^a_i; all exponents are 1 by default."""
    return Product(parts, [1.0] * len(parts) if exponents is None else exponents)


def tempered(part: EnergyModel, beta: float) -> Product:
    """p ∝ p_1^β: the ensemble at the temperature T/β, in the latents' volume.

    In curved coordinates that is not quite the Boltzmann density of another temperature, as the volume
    |det dx/dz| is raised to β with the rest; a target repairs it.

    Raises:
        ConfigError: β is not positive.
    """
    if not beta > 0:
        raise ConfigError(f"beta must be positive, not {beta}")
    return Product([part], [beta])


def negated(part: EnergyModel, other: EnergyModel, gamma: float) -> Product:
    """p ∝ p_1 / p_2^γ: as ``part``, but not where ``other`` is. γ < 1 if there are real axes.

    Raises:
        ConfigError: γ is not positive, or 1 and above with real axes.
    """
    if not gamma > 0:
        raise ConfigError(f"gamma must be positive, not {gamma}")
    return Product([part, other], [1.0, -gamma])


def mixture(
    *parts: EnergyModel,
    weights: Sequence[float] | None = None,
    normalisers: Sequence[Normaliser] | None = None,
) -> Mixture:
    """p = Σ_i w_i p_i; equal weights by default. See :class:`Mixture` for the normalisers."""
    return Mixture(parts, [1.0] * len(parts) if weights is None else weights, normalisers)


def _parts(description: dict[str, Any]) -> list[Network]:
    from bgdiff.models.choose import network_from_description

    return [network_from_description(part) for part in description["parts"]]


def _same_particles(models: Sequence[ParticleModel]) -> bool:
    first = models[0]
    return all(
        tuple(one.event_shape) == tuple(first.event_shape) and torch.equal(one.types, first.types)
        for one in models
    )


def _check_axes(kind: str, parts: Sequence[EnergyModel]) -> None:
    if not parts:
        raise ConfigError(f"a {kind} needs at least one part")
    first = parts[0].periodic
    for number, part in enumerate(parts):
        if not torch.equal(part.periodic.cpu(), first.cpu()):
            raise ConfigError(
                f"parts of a {kind} must be on the same axes: part 0 has {len(first)}, {int(first.sum())} of "
                f"them periodic; part {number} has {len(part.periodic)}, {int(part.periodic.sum())} of them "
                "periodic, or others"
            )


def _check_numbers(what: str, numbers: Sequence[float], n_parts: int) -> None:
    if len(numbers) != n_parts:
        raise ConfigError(f"{len(numbers)} {what} do not belong to {n_parts} parts")
    if not all(abs(number) < float("inf") for number in numbers):
        raise ConfigError(f"{what} must be finite, not {', '.join(f'{number:g}' for number in numbers)}")


def _check_range(model: Composition) -> None:
    if not model.sigma_min < model.sigma_max:
        ranges = "; ".join(f"{low:g} to {high:g}" for low, high in map(noise_range, model.parts))
        raise ConfigError(f"parts of a {model.kind} have no noise level in common: {ranges}")
