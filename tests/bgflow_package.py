"""bgflow for tests: the package where it is installed, and what stands in for it everywhere."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bgdiff.interop.bgflow_shims import import_bgflow

__all__ = ["BUILT_ON_IT", "affine", "bgflow_fixture", "normal", "of_bgflow"]

_STAND_IN = Path(__file__).with_name("bgflow_stand_in.py")
BUILT_ON_IT = "bgdiff.interop.bgflow_energies"


def of_bgflow(name: str) -> bool:
    """Whether a module is bgflow's, or defined by its classes."""
    return name == "bgflow" or name.startswith("bgflow.") or name == BUILT_ON_IT


_INSTALLED = importlib.util.find_spec("bgflow") is not None


@pytest.fixture(name="bgflow", scope="module", params=["stand-in", "bgflow"] if _INSTALLED else ["stand-in"])
def bgflow_fixture(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The package, or what stands in for it, as ``import bgflow`` finds it during the tests."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if of_bgflow(name)}
    try:
        if request.param == "bgflow":
            yield import_bgflow()
        else:
            spec = importlib.util.spec_from_file_location("bgflow", _STAND_IN)
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules["bgflow"] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            yield import_bgflow()
    finally:
        for name in [name for name in sys.modules if of_bgflow(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def affine(bgflow: Any, scale: list[float], shift: list[float]) -> Any:
    """x = shift + scale z as a flow of bgflow."""

    class Affine(bgflow.Flow):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(scale).double())
            self.register_buffer("shift", torch.tensor(shift).double())

        def _forward(self, z: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            return self.shift + self.scale * z, self.scale.abs().log().sum().expand(len(z), 1)

        def _inverse(self, x: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            return (x - self.shift) / self.scale, -self.scale.abs().log().sum().expand(len(x), 1)

    return Affine()


def normal(bgflow: Any, dim: int) -> Any:
    """A standard normal prior in float64."""
    return bgflow.NormalDistribution(dim, mean=torch.zeros(dim).double())
