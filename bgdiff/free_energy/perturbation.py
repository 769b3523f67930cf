r"""Free-energy perturbation from one side, and Jarzynski's equality.

    F_b - F_a = -log ⟨exp(-w)⟩_a,        w = u_b(x) - u_a(x), x ~ a          (fep; Zwanzig)
    F_b - F_a = +log ⟨exp(-w)⟩_b,        w = u_a(x) - u_b(x), x ~ b          (fep_reverse)

The same formulas hold for works of paths that are driven from a to b (or back), however fast: Jarzynski's
equality. Works are in kT; +inf (or nan: no energy) is a sample of weight zero and counts as a draw.

The error is that of the delta method with samples summed over independent units, or of the block bootstrap.
The estimate is biased by about half its squared error, upwards for ``fep`` and downwards for ``fep_reverse``:
poor overlap shows as a disagreement of the two.

References: Zwanzig, J. Chem. Phys. 22, 1420 (1954), eq. 16; Jarzynski, Phys. Rev. Lett. 78, 2690 (1997),
eq. 2; Crooks, J. Stat. Phys. 90, 1481 (1998).
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bgdiff.errors import DataError
from bgdiff.free_energy.bootstrap import block_bootstrap, bootstrap_error, unit_error, unit_labels
from bgdiff.free_energy.estimate import Estimate, ZeroWeightsError

__all__ = ["fep", "fep_reverse", "finite_work", "kish"]

Array = NDArray[np.float64]


def fep(work: ArrayLike, *, unit: ArrayLike | None = None, bootstrap: int = 0, seed: int = 0) -> Estimate:
    """Estimate F_b - F_a from works (n,) of samples of a, in kT.

    Args:
        work: w = u_b(x) - u_a(x), or the work of a driven path from a to b.
        unit: labels (n,) of the independent units; by default every sample is its own.
        bootstrap: number of resamplings of units for the error; 0: delta method.

    Returns:
        n_eff is Kish's number of units (Σw)²/Σw² and the overlap that number as a fraction of all units.
        Diagnostics: ``n``, ``n_units``, ``n_nonfinite``, ``largest_share`` of the weight in one unit.

    Raises:
        DataError: works are empty, -inf, or of another shape.
        ZeroWeightsError: no work is finite.

    >>> fep([1.5, 1.5, 1.5]).value  # every work is the same
    1.5
    """
    values, bad = finite_work(work, "work")
    if bad.all():
        raise ZeroWeightsError(
            f"work: none of {values.size} samples has a finite work: none lies where the other ensemble does"
        )
    labels = unit_labels(unit, values.size)
    n_units = int(labels.max()) + 1
    shift = float(values[~bad].min())
    weight = np.exp(shift - values)
    mean = weight.mean()
    by_unit = np.bincount(labels, weights=weight)
    lost = 0
    if bootstrap:
        replicates = block_bootstrap(lambda rows: np.log(weight[rows[0]].mean()), [labels], bootstrap, seed)
        errors, lost = bootstrap_error(replicates, [labels])
        error, how = float(errors), f"bootstrap error ({bootstrap} resamplings)"
    else:
        error, how = unit_error([weight / weight.sum()], [labels]), "delta-method error"
    effective = kish(by_unit)
    diagnostics: dict[str, float | int | str | bool] = {
        "n": values.size,
        "n_units": n_units,
        "n_nonfinite": int(bad.sum()),
        "largest_share": float(by_unit.max() / by_unit.sum()),
    }
    if lost:
        diagnostics["resamples_without_value"] = lost
    return Estimate(
        shift - float(np.log(mean)),
        error,
        f"free-energy perturbation, {how}" + ("" if unit is None else " over units"),
        effective,
        effective / n_units,
        diagnostics,
    )


def fep_reverse(
    work: ArrayLike, *, unit: ArrayLike | None = None, bootstrap: int = 0, seed: int = 0
) -> Estimate:
    """Estimate F_b - F_a from works (n,) of samples of b: w = u_a(x) - u_b(x), or of paths from b to a.

    All else is as for :func:`fep`.

    >>> fep_reverse([1.5, 1.5, 1.5]).value
    -1.5
    """
    backward = fep(work, unit=unit, bootstrap=bootstrap, seed=seed)
    return replace(backward, value=-backward.value, method="reverse " + backward.method)


def finite_work(work: ArrayLike, name: str) -> tuple[Array, NDArray[np.bool_]]:
    """Works (n,) as float64 with +inf for those without a number, and which these are.

    Raises:
        DataError: works are empty, of another shape, or -inf, which no sample of its own ensemble has.
    """
    values = np.asarray(work, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise DataError(f"{name}: expected a non-empty array of shape (n,), got shape {values.shape}")
    if np.isneginf(values).any():
        first = int(np.isneginf(values).argmax())
        raise DataError(
            f"{name}: sample {first} has work -inf, so its energy in its own ensemble is infinite; "
            "check that the samples belong to this ensemble"
        )
    bad = ~np.isfinite(values)
    return np.where(bad, np.inf, values), bad


def kish(weight: NDArray[Any]) -> float:
    """Kish's effective number (Σw)²/Σw² of weights that are not all zero; 0 if they are."""
    square = float(weight @ weight)
    return float(weight.sum()) ** 2 / square if square > 0 else 0.0
