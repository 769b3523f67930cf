"""The matrix products that a piece of code does, and how long they would take with nothing around them."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Product", "bare", "flops", "matrix_products"]

_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv"}


@dataclass(frozen=True)
class _Operand:
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Product:
    """One product as torch was asked for it: the operation and the layout of its operands."""

    operation: Any
    operands: tuple[_Operand, ...]

    @property
    def factors(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the two matrices, or batches of them; not of what is added."""
        return self.operands[-2].shape, self.operands[-1].shape


def matrix_products(work: Callable[[], object]) -> list[Product]:
    """All matrix products, forward and backward, that one call of ``work`` does."""
    with _Recorder() as recorder:
        work()
    return recorder.found


def flops(products: Iterable[Product]) -> float:
    """Multiplications and additions of all of them."""
    total = 0.0
    for product in products:
        left, right = product.factors
        columns = right[-1] if len(right) > 1 else 1
        total += 2.0 * math.prod(left) * columns
    return total


def bare(products: Iterable[Product]) -> Callable[[], None]:
    """A function that does the same products of the same layouts with random numbers, and nothing else.

    Operands of one layout share their memory, so caches help no less than in any real computation.
    """
    made: dict[_Operand, Tensor] = {}
    calls = [(one.operation, [_random(o, made) for o in one.operands]) for one in products]

    def run() -> None:
        with torch.no_grad():
            for operation, operands in calls:
                operation(*operands)

    return run


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Product] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in _PRODUCTS:
            layouts = (_Operand(tuple(a.shape), a.stride(), a.dtype) for a in args if isinstance(a, Tensor))
            self.found.append(Product(func, tuple(layouts)))
        return func(*args, **(kwargs or {}))


def _random(operand: _Operand, made: dict[_Operand, Tensor]) -> Tensor:
    if operand not in made:
        extent = 1 + sum((n - 1) * step for n, step in zip(operand.shape, operand.stride, strict=True))
        storage = torch.randn(max(extent, 1), dtype=operand.dtype)
        made[operand] = storage.as_strided(operand.shape, operand.stride)
    return made[operand]
