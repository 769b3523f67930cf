"""What an objective is: a term of the training loss, and what it sees of a training step."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bgdiff.models.base import EnergyModel, log_density_and_score
from bgdiff.objectives.batches import Batch
from bgdiff.objectives.noising import log_kernels

__all__ = ["Objective", "Options", "Problem", "Setup"]


class Options(BaseModel):
    """Settings of an objective besides its weight; each field is checked and has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Setup:
    """What an objective may need to know when it is made."""

    model: EnergyModel
    """the network that is going to be trained; its parameters are not the objective's"""
    sigma: Tensor
    """``(K+1,)``: noise of the rungs, σ_0 = 0"""
    width: Tensor
    """c ``(d,)``: variances of the data as their forces see them; ones where forces are unknown"""
    data: Tensor
    """``(n, d)``: the latents that are trained on"""
    data_score: Tensor | None
    """``(n, d)``: their scores, where forces are known"""
    n_points: int
    """noised points in a training step"""
    generator: torch.Generator
    """for what it draws when it is made, such as the start of persistent chains; network weights take the
    global generator, which the trainer has seeded for it"""


@dataclass(frozen=True)
class Problem:
    """What the terms of one training step share.

    Values at the batch's own points are computed when the first term asks for them.
    """

    model: EnergyModel
    offsets: Tensor
    """f ``(K+1,)``: the learned normalisers, log p(z, σ_k) ≈ log p̃(z, σ_k) + f_k; f_K is 0"""
    sigma: Tensor
    """``(K+1,)``"""
    width: Tensor
    """c ``(d,)``, see :class:`Setup`"""
    batch: Batch
    generator: torch.Generator
    """for noise of a term's own, after the batch was drawn from it"""
    target_log_density: Callable[[Tensor], Tensor] | None = None
    """unnormalised log density of rung 0 ``(B,)`` at ``(B, d)``, not differentiable; given if the batch has
    points of rung 0"""
    create_graph: bool = True
    """whether losses must be differentiable in parameters; False where they are only looked at"""

    @cached_property
    def points(self) -> Tensor:
        """All noised points ``(P, d)``."""
        return self.batch.z.reshape(-1, self.batch.z.shape[-1])

    @cached_property
    def rungs(self) -> Tensor:
        """Their rungs ``(P,)``, int64; 0 only if there is a target."""
        return self.batch.rungs.reshape(-1)

    @cached_property
    def level(self) -> Tensor:
        """Their noise ``(P,)`` in the points' precision; that of rung 1 for points of rung 0, which no
        model knows."""
        return self.sigma.to(self.batch.z)[self.batch.rungs.clamp_min(1)].reshape(-1)

    @cached_property
    def displacement(self) -> Tensor:
        """The noise that was added to them ``(P, d)``, before wrapping."""
        return self.batch.displacement.reshape(-1, self.batch.z.shape[-1])

    @cached_property
    def clean(self) -> Tensor:
        """The data points they come from ``(P, d)``; angles up to full turns."""
        return self.points - self.displacement

    @cached_property
    def sources(self) -> Tensor:
        """The data point of each group ``(G, d)``; angles up to full turns."""
        return self.clean.reshape(self.batch.z.shape)[:, 0]

    def log_kernels(self, z: Tensor, rungs: Tensor, clean: Tensor) -> Tensor:
        """log q_k(z_i | z_j): how likely data points are noised to these points ``(B, m)`` float64.

        Args:
            z: ``(B, d)``.
            rungs: int64 ``(B,)``, from 1 on.
            clean: ``(m, d)``.
        """
        return log_kernels(z, self.sigma[rungs], clean, self.model.periodic)

    @cached_property
    def noisy(self) -> Tensor | slice:
        """What picks the points that are not on rung 0: a mask, or a slice of everything."""
        mask = self.rungs > 0
        return slice(None) if bool(mask.all()) else mask

    def own(self) -> tuple[Tensor, Tensor]:
        """log p̃ ``(P,)`` and its score ``(P, d)`` at every point's own rung.

        Entries of rung 0 mean nothing.
        """
        return self._own

    def own_log_density(self) -> Tensor:
        """The first of :meth:`own`, without the cost of the second if no term has asked for it."""
        if "_own" in self.__dict__:
            return self._own[0]
        return self._own_log_density

    @cached_property
    def _own(self) -> tuple[Tensor, Tensor]:
        return log_density_and_score(self.model, self.points, self.level, create_graph=self.create_graph)

    @cached_property
    def _own_log_density(self) -> Tensor:
        with torch.set_grad_enabled(self.create_graph):
            return self.model.log_density(self.points, self.level)


class Objective(nn.Module, ABC):
    """A term of the training loss.

    It is a module: its parameters are trained with the model's, its buffers (such as persistent chains) are
    stored in checkpoints, and both move between devices. What it keeps from step to step may change in
    training mode only (``self.training``): held-out losses are computed in evaluation mode. The mathematics
    belongs in functions of tensors; this is their adapter.
    """

    name: ClassVar[str]
    """as in ``training.objectives``"""
    options_class: ClassVar[type[Options]] = Options
    """what ``training.objective_options`` may say about it"""

    def __init__(self, setup: Setup, options: Options | None = None) -> None:
        super().__init__()
        self.options = self.options_class() if options is None else options

    @abstractmethod
    def loss(self, problem: Problem) -> Tensor:
        """A scalar, differentiable in the parameters of the model, in the offsets and in its own."""
