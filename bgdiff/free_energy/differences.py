"""Free-energy differences between targets that were estimated apart."""

import math

from bgdiff.free_energy.estimate import Estimate

__all__ = ["difference_of_log_z"]


def difference_of_log_z(initial: Estimate, final: Estimate) -> Estimate:
    """F_final - F_initial in kT from two independent estimates of log Z, each from its own ladder and prior.

    n_eff and overlap are those of the poorer one.
    """
    overlaps = [one.overlap for one in (initial, final) if one.overlap is not None]
    return Estimate(
        initial.value - final.value,
        math.hypot(initial.std_error, final.std_error),
        f"difference of two log Z ({initial.method}; {final.method})",
        min(initial.n_eff, final.n_eff),
        min(overlaps) if len(overlaps) == 2 else None,
        {"log_z_initial": initial.value, "log_z_final": final.value},
    )
