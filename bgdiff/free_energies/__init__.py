"""``bgdiff free-energy``: every free energy of a run, by all estimators that apply, with a verdict.

Samples that this takes besides the run's own are kept in ``RUN/free-energy``, chunk by chunk; the numbers go
to ``RUN/free_energies.json``.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bgdiff.errors import ConfigError
from bgdiff.progress import Progress, silent

if TYPE_CHECKING:
    from bgdiff.analysis.free_energy_results import FreeEnergies

__all__ = ["LEAST_RUNG_SAMPLES", "Request", "free_energies"]

_LOG = logging.getLogger(__name__)

Stages = Callable[[str], AbstractContextManager[Progress]]


LEAST_RUNG_SAMPLES = 400
"""Fewer would make populations too small for resampling."""


def _unseen(name: str) -> AbstractContextManager[Progress]:
    return nullcontext(silent)


@dataclass(frozen=True)
class Request:
    """What is asked for besides the system's own differences and log Z.

    Args:
        between: two regions, as :mod:`bgdiff.regions` reads them.
        to: another run, of the same atoms.
        temperatures: K, or relative to the run's for systems in reduced units.
        profiles: variables, as :mod:`bgdiff.variables` reads them.
        bootstrap: resamplings for the errors; 0: asymptotic ones.
        frames: held-out frames to walk up the ladder, if more than the run has.
        rung_samples: of every rung, for MBAR and integration over the rungs; 0: none are drawn.
        seed: of the bootstrap and of what is drawn; the run's by default.
        out: JSON file.
    """

    between: tuple[str, str] | None = None
    to: Path | None = None
    temperatures: tuple[float, ...] = ()
    profiles: tuple[str, ...] = ()
    bootstrap: int = 0
    frames: int | None = None
    rung_samples: int = 5000
    seed: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise ConfigError(f"--bootstrap {self.bootstrap}: expected 0 or at least 2 resamplings")
        if 0 < self.rung_samples < LEAST_RUNG_SAMPLES:
            raise ConfigError(
                f"--rung-samples {self.rung_samples}: expected 0 or at least {LEAST_RUNG_SAMPLES}"
            )
        for value in self.temperatures:
            if not 0 < value < float("inf"):
                raise ConfigError(f"--temperature {value:g}: must be positive")


def free_energies(
    directory: Path | str, request: Request | None = None, progress: Stages = _unseen
) -> tuple["FreeEnergies", Path]:
    """Compute everything that is asked for and write it.

    Args:
        directory: of a finished run.

    Returns:
        The content and the file it was written to.

    Raises:
        RunDirectoryError: the run is not finished, or another process works on it.
        ConfigError: a region, variable or temperature makes no sense; two systems do not belong together.
        DataError: the samples cannot answer, and the message says what to do.
    """
    from bgdiff.analysis.free_energy_results import FILE, write_free_energies
    from bgdiff.free_energies.tasks import Tasks
    from bgdiff.run import Run

    request = request or Request()
    run = Run(directory)
    path = request.out or run.file(FILE)
    with run.locked():
        content = Tasks(run, request, progress).all()
        write_free_energies(path, content)
    return content, path
