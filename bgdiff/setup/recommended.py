"""Settings of runs that molecules of a size were found to need; docs/peptides.md has the measurements."""

from typing import Any

__all__ = ["recommended_settings"]

_WALKS_SUFFICE, _DEFAULT_NETWORK_SUFFICES = 70, 100  # internal degrees of freedom


def recommended_settings(n_atoms: int) -> dict[str, Any]:
    """What runs of a molecule change in the standard preset; empty for molecules of a dipeptide's size.

    The logarithm of a walk's weight scatters with every degree of freedom, so beyond some seventy of them
    independent walks lose too much. Sequential Monte Carlo with moves at every rung and true forces on the
    last stretch takes fewer samples farther, torsions take their share of the stiff coordinates' means, and
    the network gets wider and is trained longer.
    """
    n_internal = 3 * n_atoms - 6
    if n_internal <= _WALKS_SUFFICE:
        return {}
    training: dict[str, Any] = {"objectives": {"bi_level": 0.1}}  # as measured; a dipeptide does with less
    settings: dict[str, Any] = {"coordinates": {"conditional": True}}
    if n_internal > _DEFAULT_NETWORK_SUFFICES:
        settings["network"] = {"width": 384}
        training["steps"] = 8000
    return settings | {
        "training": training,
        "ladder": {"n_rungs": 600},
        "correction": {"method": "smc", "every": 1, "bridge_places": 20},
        "sampling": {"n_samples": 4000, "n_held_out": 500},
    }
