"""Which samples of a run lie in which region, with variables measured once for every set of samples."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from bgdiff.free_energies.samples import RunSamples, SampleSet, UpWalks
from bgdiff.observable_spec import ObservableSpec
from bgdiff.regions import Region, check_disjoint, check_populated

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["Measured", "RegionPair"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Measured:
    """Values of variables at the samples of a run; each is computed when it is first asked for."""

    def __init__(self, samples: RunSamples) -> None:
        self._samples = samples
        self._found: dict[str, dict[str, Array]] = {}

    @property
    def system(self) -> "System":
        return self._samples.run.system

    def of(self, samples: SampleSet, variables: Mapping[str, ObservableSpec]) -> dict[str, Array]:
        """Values ``(n,)`` of variables at a set of samples; radian for angles."""
        known = self._found.setdefault(samples.name, {})
        self._measure(known, variables, samples.conformations())
        return {name: known[name] for name in variables}

    def of_frames(self, frames: UpWalks, variables: Mapping[str, ObservableSpec]) -> dict[str, Array]:
        """Values ``(m,)`` at the frames that were walked up."""
        known = self._found.setdefault(f"{len(frames)} frames", {})
        x = self._samples.run.data.x[torch.from_numpy(frames.index)]
        self._measure(known, variables, (part.numpy() for part in x.split(4096)))
        return {name: known[name] for name in variables}

    def mask(self, samples: SampleSet, region: Region) -> Mask:
        """Which of a set of samples ``(n,)`` lie in a region."""
        return region.mask(self.of(samples, region.variables))

    def mask_of_frames(self, frames: UpWalks, region: Region) -> Mask:
        """Which of the frames that were walked up lie in a region, ``(m,)``."""
        return region.mask(self.of_frames(frames, region.variables))

    def _measure(
        self, known: dict[str, Array], variables: Mapping[str, ObservableSpec], x: Iterable[Array]
    ) -> None:
        missing = {name: spec for name, spec in variables.items() if name not in known}
        if not missing:
            return
        parts: dict[str, list[Array]] = {name: [] for name in missing}
        for conformations in x:
            for name, values in self.system.measure(missing, conformations).items():
                parts[name].append(values)
        known |= {name: np.concatenate(found) if found else np.zeros(0) for name, found in parts.items()}


class RegionPair:
    """Two regions of one difference, with the samples that lie in them.

    Raises:
        RegionError: they overlap.
        EmptyBasinError: one holds no sample at all.
    """

    def __init__(
        self, initial: Region, final: Region, measured: Measured, sets: Sequence[SampleSet], frames: UpWalks
    ) -> None:
        self.initial, self.final = initial, final
        self.masks = {one.name: (measured.mask(one, initial), measured.mask(one, final)) for one in sets}
        self.frames = measured.mask_of_frames(frames, initial), measured.mask_of_frames(frames, final)
        check_disjoint(initial, final, {**self.masks, "held-out frames": self.frames})
        for region, end in ((initial, 0), (final, 1)):
            if not any(masks[end].any() for masks in self.masks.values()):
                largest = max(sets, key=len)
                values = measured.of(largest, region.variables)
                check_populated(region, self.masks[largest.name][end], values, f"samples ({largest.name})")

    @property
    def names(self) -> tuple[str, str]:
        return self.initial.name, self.final.name
