"""Randomness: one generator per piece of work, derived from the run's seed and a counter.

A chunk's numbers depend only on the seed and the chunk's name, never on what ran before it. That is
what makes an interrupted run resume to the same result, and lets chunks run in any order.
"""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["derive_seed", "generator_for"]


def derive_seed(seed: int, *keys: int | str) -> int:
    """Return a 63-bit seed that is a hash (BLAKE2b) of ``seed`` and ``keys``."""
    text = "/".join([str(int(seed)), *(f"{type(key).__name__}:{key}" for key in keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(seed: int, *keys: int | str, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a fresh ``torch.Generator`` for the piece of work that ``keys`` names."""
    import torch

    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(seed, *keys))
    return generator
