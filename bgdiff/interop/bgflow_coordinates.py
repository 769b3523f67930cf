"""A bgflow coordinate transform as a bgdiff coordinate map."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bgdiff.coordinates import Whitening, wrap
from bgdiff.errors import ConfigError, DataError

__all__ = ["FlowCoordinates", "flow_dtype"]

_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How well a latent must come back, relative to 1 + |z|, to count as one of the map's image."""


class FlowCoordinates:
    """A flow x → (z_1, …, z_m, dlogp), such as ``GlobalInternalCoordinateTransformation``, as coordinates.

    The tensors that the flow yields are joined to one vector. Where the flow has angles of a whole circle
    they become periodic axes in radian; the other axes are whitened on the data.

    A latent that the flow cannot invert (a negative bond length, or whatever bgflow moves back to a legal
    place) does not come back from :meth:`to_x` and :meth:`to_z`; it gets log|det| = -inf, and so density 0.

    Args:
        flow: forward from conformations; see ``invert``.
        x: conformations ``(n, N, D)`` of the data.
        periodic: index of the outputs of the flow that are angles of a whole circle, such as 2, the torsions.
        circle: range of these angles as the flow yields them; bgflow's normalised torsions have (0, 1).
        fixed: index of the outputs that are no latents but stay what they are in the first conformation,
            such as 3 and 4, origin and rotation.
        log_constant: added to log|det dx/dz|. With fixed origin and normalised rotation -2 log 2π makes it
            bgdiff's: per unit volume of translation and radian³ of rotation.
        flat: whether the flow takes conformations as ``(B, N·D)``, or as ``(B, N, D)``.
        invert: whether the flow's *inverse* leads from conformations to latents.
        whiten: whether real axes are whitened.

    Raises:
        ConfigError: the flow does not yield tensors ``(n, …)`` and dlogp ``(n, 1)``, or an index is out of
            range.
        DataError: too little data to whiten, or the flow is not finite on it.
    """

    kind = "bgflow"

    def __init__(
        self,
        flow: Any,
        x: Tensor,
        *,
        periodic: Sequence[int] = (),
        circle: tuple[float, float] = (0.0, 1.0),
        fixed: Sequence[int] = (),
        log_constant: float = 0.0,
        flat: bool = True,
        invert: bool = False,
        whiten: bool = True,
    ) -> None:
        if not circle[0] < circle[1]:
            raise ConfigError(f"circle: expected the lower end first, not {circle}")
        self.flow, self.flat, self.invert = flow, flat, invert
        self.event_shape = (int(x.shape[1]), int(x.shape[2]))
        self._dtype = flow_dtype(flow)
        self._middle, self._unit = sum(circle) / 2, 2 * math.pi / (circle[1] - circle[0])
        outputs, _ = self._apply(x.to(torch.float64), inverse=False)
        for name, chosen in (("periodic", periodic), ("fixed", fixed)):
            if not all(0 <= index < len(outputs) for index in chosen):
                raise ConfigError(
                    f"{name}: the flow has the outputs 0 … {len(outputs) - 1}, not {tuple(chosen)}"
                )
        self._shapes = [tuple(output.shape[1:]) for output in outputs]
        self._fixed = {index: outputs[index][:1].detach() for index in fixed}
        self._used = [index for index in range(len(outputs)) if index not in self._fixed]
        sizes = {index: math.prod(self._shapes[index]) for index in self._used}
        self._sizes = [sizes[index] for index in self._used]
        self.periodic = torch.cat(
            [torch.full((sizes[index],), index in tuple(periodic)) for index in self._used]
        )
        self._log_constant = log_constant - self._n_periodic * math.log(self._unit)
        self._whitening: Whitening | None = None
        y = self._joined(outputs)
        if not bool(torch.isfinite(y).all()):
            raise DataError("the coordinate flow is not finite on the data")
        if whiten and bool((~self.periodic).any()):
            self._whitening = Whitening.fit(y[:, ~self.periodic])

    @property
    def dim(self) -> int:
        return len(self.periodic)

    @property
    def _n_periodic(self) -> int:
        return int(self.periodic.sum())

    def to_z(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x ``(B, N, D)`` → z ``(B, d)``, log|det dz/dx| ``(B,)``."""
        outputs, log_det = self._apply(x.to(torch.float64), inverse=False)
        if self._fixed:
            # the volume is that at the fixed values, not at the ones that x happens to have
            inputs = [
                self._fixed[index].expand_as(output) if index in self._fixed else output
                for index, output in enumerate(outputs)
            ]
            log_det = -self._apply(*inputs, inverse=True)[1]
        y = self._joined(outputs)
        z = (y - self._middle) * self._unit
        real = y
        if self._whitening is not None:
            real = y.clone()
            real[:, ~self.periodic] = self._whitening.to_z(y[:, ~self.periodic])
            log_det = log_det - self._whitening.log_det
        return torch.where(self.periodic, wrap(z), real), log_det - self._log_constant

    def to_x(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z ``(B, d)`` → x ``(B, N, D)``, log|det dx/dz| ``(B,)``; -inf where z does not come back."""
        z = z.to(torch.float64)
        z = torch.where(self.periodic, wrap(z), z)
        y = torch.where(self.periodic, self._middle + z / self._unit, z)
        constant = self._log_constant
        if self._whitening is not None:
            y = y.clone()
            y[:, ~self.periodic] = self._whitening.to_y(z[:, ~self.periodic])
            constant += self._whitening.log_det
        parts = dict(zip(self._used, y.split(self._sizes, 1), strict=True))
        inputs = [
            parts[index].reshape(-1, *shape) if index in parts else self._fixed[index].expand(len(z), *shape)
            for index, shape in enumerate(self._shapes)
        ]
        (x,), log_det = self._apply(*inputs, inverse=True)
        x = x.reshape(-1, *self.event_shape)
        log_det = log_det + constant
        with torch.no_grad():
            back, there = self.to_z(x)
            away = torch.where(self.periodic, wrap(back - z), back - z).abs()
            same = (away < _CLOSE[self._dtype] * (1 + z.abs())).all(1) & torch.isfinite(there)
        return x, torch.where(same & torch.isfinite(log_det), log_det, -torch.inf)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Refused: the map is code of another package.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"coordinates made of a bgflow {type(self.flow).__name__} cannot be stored in a file; use them "
            "within a program, or bgdiff's own coordinates"
        )

    def _apply(self, *inputs: Tensor, inverse: bool) -> tuple[list[Tensor], Tensor]:
        """Outputs of the flow, and its dlogp ``(B,)``, float64; ``inverse`` leads to conformations."""
        n = len(inputs[0])
        if not inverse and self.flat:
            inputs = (inputs[0].flatten(1),)
        results = self.flow(*(one.to(self._dtype) for one in inputs), inverse=inverse != self.invert)
        outputs, log_det = list(results[:-1]), torch.as_tensor(results[-1])
        if not outputs or any(len(one) != n for one in outputs) or log_det.numel() not in (1, n):
            raise ConfigError(
                f"{type(self.flow).__name__} must yield tensors of {n} rows and dlogp ({n}, 1), not "
                f"{[tuple(one.shape) for one in outputs]} and {tuple(log_det.shape)}"
            )
        log_det = log_det.to(torch.float64).reshape(-1).expand(n)
        return [one.to(torch.float64) for one in outputs], log_det

    def _joined(self, outputs: list[Tensor]) -> Tensor:
        return torch.cat([outputs[index].flatten(1) for index in self._used], 1)


def flow_dtype(flow: Any) -> torch.dtype:
    """Precision of a module's parameters or buffers; float64 if it has none."""
    tensors = [*flow.parameters(), *flow.buffers()] if hasattr(flow, "parameters") else []
    return next((one.dtype for one in tensors if one.is_floating_point()), torch.float64)
