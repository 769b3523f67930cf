"""Every run's learned normalisers beside MBAR's on data that training has not seen."""

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bgdiff.analysis.results import Normalisers
from bgdiff.errors import CheckpointError, DataError
from bgdiff.io import read_json, write_json
from bgdiff.progress import Progress, silent
from bgdiff.random import generator_for

if TYPE_CHECKING:
    from bgdiff.generator import BoltzmannGenerator
    from bgdiff.run import Run

__all__ = ["check_run"]

_LOG = logging.getLogger(__name__)
_FILE = "normalisers.json"
_POINTS = 1500  # at a rung


def check_run(run: "Run", generator: "BoltzmannGenerator", progress: Progress = silent) -> Normalisers | None:
    """Compare, or read what was found for the same model before; None if training did not classify,
    or settings ask for none.

    The result is kept in the run. It takes seconds: no target energy is computed.

    Raises:
        CheckpointError: a file of the run is damaged.
    """
    if not run.config.training.learns_normalisers or not run.config.ladder.normaliser_samples:
        return None
    digest = hashlib.sha256(run.generator_file.read_bytes()).hexdigest()
    stored = _stored(run)
    if stored.get("generator") == digest:
        return None if stored["found"] is None else Normalisers.model_validate(stored["found"])
    found = _compare(run, generator, progress)
    content = None if found is None else found.model_dump(mode="json")
    write_json(run.file(_FILE), {"generator": digest, "found": content})
    return found


def _stored(run: "Run") -> dict[str, Any]:
    """The file's content; empty if it is missing or damaged, since it can be made again."""
    try:
        content = read_json(run.file(_FILE))
    except CheckpointError:
        return {}
    return content if isinstance(content, dict) else {}


def _compare(run: "Run", generator: "BoltzmannGenerator", progress: Progress) -> Normalisers | None:
    from bgdiff.free_energy.normalisers import check_normalisers, solve_normalisers
    from bgdiff.ladder.rung_samples import data_width

    ladder = generator.ladder
    device = ladder.sigma.device
    stream = generator_for(run.config.seed, "normalisers", device=device)
    z, unit = _points(run, generator)
    sigma, learned = generator.training_sigma.to(device), generator.normalisers
    try:
        solved = solve_normalisers(
            ladder.model, sigma, data_width(ladder), z.to(device), stream, unit=unit, initial=learned,
            points=min(_POINTS, run.config.ladder.normaliser_samples), progress=progress,
        )  # fmt: skip
    except DataError as problem:  # too little data, or rungs that do not overlap
        _LOG.warning("the learned normalisers could not be checked: %s", problem)
        return None
    check = check_normalisers(learned, sigma, solved)
    largest = check.largest
    return Normalisers(
        largest=largest.value,
        std_error=largest.std_error,
        rms=check.rms,
        ok=abs(largest.value) <= Normalisers.LIMIT,
        overlap=largest.overlap,
        sigma=check.sigma.tolist(),
        learned=check.learned.tolist(),
        mbar=check.reference.tolist(),
        mbar_std_error=check.std_error.tolist(),
    )


def _points(run: "Run", generator: "BoltzmannGenerator") -> tuple[Tensor, Tensor | None]:
    """Latents ``(n, d)`` in the proportions that the model was trained on, and their independent units."""
    from bgdiff.ladder.resampling import systematic
    from bgdiff.preparation import basin_index
    from bgdiff.rounds import round_log_weight

    config = run.config
    if config.rounds.n_rounds:
        # later trainings saw corrected samples; those of the run are corrected too, and new to the model
        from bgdiff.free_energies.samples import RunSamples

        samples = RunSamples(run).corrected
        log_weight = torch.from_numpy(np.nan_to_num(samples.log_weight, nan=-np.inf))
        chosen = systematic(log_weight, generator_for(config.seed, "normalisers", "resample"))
        return torch.cat(list(samples.parts))[chosen], None
    _, held_out = run.data.split(config.training.held_out, config.seed)
    x, chain = held_out.x, held_out.chain
    if config.rounds.least_share:
        level = torch.zeros(len(x), dtype=torch.float64)
        weight = round_log_weight(level, basin_index(run.system, x), config.rounds.least_share)
        chosen = systematic(weight, generator_for(config.seed, "normalisers", "balance"))
        x, chain = x[chosen], chain[chosen]
    return generator.coordinates.to_z(x)[0], chain
