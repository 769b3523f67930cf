"""How long to simulate a molecule: lengths that take minutes, from its size and what evaluates it."""

from dataclasses import dataclass

__all__ = ["Lengths", "simulation_lengths"]

_FRAMES = 50_000
_SPACING_PS = 1.0
_EQUILIBRATION_PS = 4.0
_STEPS_PER_SECOND = {"vacuum": 4e5, "implicit": 1.6e5}
"""Of one walker of 42 atoms on one core with the batched engine; time goes with the square of the atoms."""
_OPENMM_STEPS_PER_SECOND = {"vacuum": 1.0e4, "implicit": 2.5e3}
_SECONDS, _REFERENCE_SECONDS = 400.0, 4000.0
_GROUPS, _LADDERS = 8, 48


@dataclass(frozen=True)
class Lengths:
    """Of plain MD and of parallel tempering."""

    chains_per_start: int
    length_ns: float
    spacing_ps: float
    equilibration_ps: float
    temperatures: int
    ladders: int
    ladder_ns: float


def simulation_lengths(n_atoms: int, n_starts: int, *, batched: bool, implicit: bool) -> Lengths:
    """Chains of plain MD that give 50 000 frames in about seven minutes of one core, or as many as they can.

    Molecules of more than 42 atoms get more minutes, in proportion, and fewer frames, but never fewer than
    twenty for each coordinate, whatever they take. Rungs of parallel tempering grow as
    the square root of the number of atoms, as fluctuations of the energy do: five for 22 atoms, to 650 K.
    """
    solvent = "implicit" if implicit else "vacuum"
    rate = (_STEPS_PER_SECOND if batched else _OPENMM_STEPS_PER_SECOND)[solvent] * (42 / n_atoms) ** 2
    affordable = rate * _SECONDS * max(1.0, n_atoms / 42) / 1000  # ps
    frames = min(_FRAMES, int(affordable / _SPACING_PS))
    frames = max(frames, 20 * (3 * n_atoms - 6))
    # many short chains: batches of the engine are the faster the larger they are, and more starts are seen
    chains = max(1, min(512 // n_starts, frames // (40 * n_starts))) if batched else 1
    per_chain = max(1, round(frames / (chains * n_starts)))
    temperatures = 1 + max(2, round(4 * (n_atoms / 22) ** 0.5))
    ladders = _LADDERS if batched else 1
    ladder_ns = _REFERENCE_SECONDS * rate / 1e6 / (_GROUPS * ladders * temperatures)
    return Lengths(
        chains_per_start=chains,
        length_ns=round(per_chain * _SPACING_PS / 1000, 4),
        spacing_ps=_SPACING_PS,
        equilibration_ps=_EQUILIBRATION_PS,
        temperatures=temperatures,
        ladders=ladders,
        ladder_ns=round(min(max(ladder_ns, 0.02), 0.3 if batched else 5.0), 3),
    )
