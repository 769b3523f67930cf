"""Frames of simulations on their way to a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import StorageError
from bgdiff.io import atomic_path

if TYPE_CHECKING:
    import mdtraj

__all__ = ["rounded", "write_array", "write_trajectory"]


def rounded(x: NDArray[Any], bits: int | None) -> NDArray[Any]:
    """Round to multiples of 2⁻ᵇⁱᵗˢ, which compress well; not at all if None.

    The error is uniform, with a standard deviation of 2⁻ᵇⁱᵗˢ/√12 per coordinate. To the variance kT/k of a
    bond of force constant k it adds 2⁻²ᵇⁱᵗˢ/6: 0.03 % for 13 bits, nm, and a C-H bond at 300 K.
    """
    return x if bits is None else np.ldexp(np.round(np.ldexp(x, bits)), -bits)


def write_array(path: Path, x: NDArray[Any], bits: int | None = None) -> None:
    """Write frames ``(n, N, D)`` as ``x`` of a compressed ``.npz`` file.

    It is float32; or, if ``bits`` are given, integers that stand for multiples of 2⁻ᵇⁱᵗˢ, with ``bits``
    beside them: a fifth smaller than rounded floats. :func:`~bgdiff.data.trajectories.read_array` reads both.

    Raises:
        StorageError: it cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {"x": x.astype(np.float32)}
    if bits is not None:
        whole = np.round(np.ldexp(x, bits))
        fits = np.abs(whole).max(initial=0) <= np.iinfo(np.int16).max
        arrays = {"x": whole.astype(np.int16 if fits else np.int32), "bits": np.array(bits)}
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def write_trajectory(
    path: Path, x: NDArray[Any], topology: "mdtraj.Topology", bits: int | None = None
) -> None:
    """Write frames ``(n, N, 3)`` nm of a molecule as the file's suffix says: ``.npz``, or a format of mdtraj.

    Args:
        bits: round as :func:`rounded` does, and store ``.npz`` as integers.

    Raises:
        StorageError: it cannot be written, or not in this format.
    """
    if path.suffix == ".npz":
        return write_array(path, x, bits)
    import mdtraj

    x = rounded(x, bits)
    with atomic_path(path) as temporary:
        try:
            mdtraj.Trajectory(x, topology).save(str(temporary))
        except (OSError, KeyError, ValueError) as error:
            raise StorageError(f"{path.name}: mdtraj cannot write it ({error})") from error
