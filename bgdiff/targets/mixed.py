"""Weighted sums of the energies of several targets: the states between two systems."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.targets.base import Target

__all__ = ["MixedTarget", "component_energies"]


class MixedTarget:
    """Density exp(-Σ_c w_c u_c(x)) of components u_c on the same coordinates; weights may differ by row.

    A component of weight zero does not count in that row, even where its energy is infinite. Energies are
    summed in float64. With weights per row, a batch must have exactly that many rows.

    Args:
        components: C targets of one ``event_shape``.
        weights: ``(C,)`` for all rows or ``(B, C)``, one set per row.

    Raises:
        ConfigError: components of different shapes, or weights that do not fit them.
    """

    def __init__(self, components: Sequence[Target], weights: Tensor) -> None:
        shapes = {tuple(component.event_shape) for component in components}
        if len(shapes) != 1:
            raise ConfigError(f"targets of different shapes cannot be mixed: {sorted(shapes)}")
        if weights.ndim not in (1, 2) or weights.shape[-1] != len(components):
            raise ConfigError(
                f"weights must be ({len(components)},) or (B, {len(components)}), not {tuple(weights.shape)}"
            )
        self.components = tuple(components)
        self.weights = weights.to(torch.float64)

    @property
    def event_shape(self) -> tuple[int, int]:
        return self.components[0].event_shape

    def energy(self, x: Tensor) -> Tensor:
        """Mixed reduced energies ``(B,)`` of conformations ``(B, N, D)``.

        Raises:
            ConfigError: there is not one set of weights for every row.
        """
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for component, weight in zip(self.components, self._columns(x), strict=True):
            total += torch.where(weight == 0, 0.0, weight * component.energy(x).double())
        return total

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed reduced energies ``(B,)`` and forces -du/dx ``(B, N, D)``, in the components' precision.

        Raises:
            ConfigError: there is not one set of weights for every row.
        """
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        forces = []
        for component, weight in zip(self.components, self._columns(x), strict=True):
            energy, force = component.energy_and_force(x)
            total += torch.where(weight == 0, 0.0, weight * energy.double())
            scale = weight.to(force.dtype)[:, None, None]
            forces.append(torch.where(scale == 0, 0.0, scale * force))
        return total, torch.stack(forces).sum(0)

    def describe(self) -> str:
        """Which program evaluates the energies, and how; one line for logs and results."""
        from bgdiff.targets.choose import describe_target

        return "; ".join(dict.fromkeys(describe_target(component) for component in self.components))

    def _columns(self, x: Tensor) -> list[Tensor]:
        """Weights of each component, one for every row."""
        if self.weights.ndim == 2 and len(self.weights) != len(x):
            raise ConfigError(f"{len(x)} conformations, but weights for {len(self.weights)}")
        return list(self.weights.to(x.device).expand(len(x), -1).unbind(1))


def component_energies(components: Sequence[Target], x: Tensor) -> Tensor:
    """Reduced energies of every component, float64 ``(B, C)``, of conformations ``(B, N, D)``."""
    return torch.stack([component.energy(x).double() for component in components], dim=1)
