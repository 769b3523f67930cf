"""What a run knows about each rung of its ladder: how far steps go, how well populations take them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.analysis.results import Results
from bgdiff.errors import CheckpointError
from bgdiff.io import read_json

__all__ = ["Exchanges", "Population", "RungRecord", "Steps", "read_rungs"]

Array = NDArray[np.float64]

_RUNG = re.compile(r"rung (\d+)\b")


@dataclass(frozen=True)
class Steps:
    """Of every step down the ladder, by the noise of the rung it starts from.

    Attributes:
        sigma: ``(K,)`` ascending, in units of the whitened latents.
        spread: ``(K, 3)`` the 10th, 50th and 90th percentile over the axes of v/D, the variance of the step
            over that of the noise it takes back: v = D (1 - D E[s²]), the optimal variance of Bao et al.
            (arXiv:2201.06503, theorem 1). 1 where the density is smooth on the scale of the step.
    """

    sigma: Array
    spread: Array


@dataclass(frozen=True)
class Population:
    """One population of sequential Monte Carlo on its way down.

    Attributes:
        sigma: ``(M,)`` noise of the rungs, in the order of the walk.
        effective: ``(M,)`` effective fraction of the population before it is resampled.
        acceptance: ``(M,)`` mean acceptance of the moves at the rung; nan without moves.
        resampled: ``(M,)`` whether it was resampled there.
    """

    sigma: Array
    effective: Array
    acceptance: Array
    resampled: NDArray[np.bool_]


@dataclass(frozen=True)
class Exchanges:
    """Of replica exchange: noise of the upper rung of each pair of neighbours and how often they exchange."""

    sigma: Array
    rate: Array


@dataclass(frozen=True)
class RungRecord:
    """What is known; None or empty where the method has no such thing."""

    steps: Steps | None
    populations: tuple[Population, ...]
    exchanges: Exchanges | None

    def __bool__(self) -> bool:
        return self.steps is not None or bool(self.populations) or self.exchanges is not None


def read_rungs(directory: Path, results: Results) -> RungRecord:
    """Read it from the generator, from the populations' records, and from those of replica exchange.

    Raises:
        CheckpointError: a file is damaged.
    """
    steps, sigma = _steps(directory)
    populations: tuple[Population, ...] = ()
    if results.method == "smc" and sigma is not None:
        files = sorted((directory / "samples-smc").glob("chunk-*.safetensors"))
        populations = tuple(found for file in files if (found := _population(file, sigma)) is not None)
    exchanges = _exchanges(directory) if results.method == "replica-exchange" else None
    return RungRecord(steps, populations, exchanges)


def _steps(directory: Path) -> tuple[Steps | None, Array | None]:
    """Of the last training's generator, and its rungs ``(K+1,)``."""
    files = [directory / "train", *sorted(directory.glob("rounds/*"))]
    found = [file for folder in files if (file := folder / "generator.safetensors").is_file()]
    if not found:
        return None, None
    arrays, _ = _open(found[-1], ("sigma", "moments"))
    if "sigma" not in arrays or "moments" not in arrays:
        return None, None
    sigma, moments = arrays["sigma"], arrays["moments"]
    noise = np.diff(sigma**2)
    if moments.ndim != 2 or len(moments) != noise.size:
        return None, sigma
    ratio = 1 - noise[:, None] * moments
    return Steps(sigma[1:], np.quantile(ratio, [0.1, 0.5, 0.9], axis=1).T), sigma


def _population(file: Path, sigma: Array) -> Population | None:
    _, facts = _open(file, ())
    rows = list(_rows(facts.get("records", ()), sigma))
    if not rows:
        return None
    noise, effective, acceptance, resampled = zip(*rows, strict=True)
    return Population(np.array(noise), np.array(effective), np.array(acceptance), np.array(resampled))


def _rows(records: Any, sigma: Array) -> Iterator[tuple[float, float, float, bool]]:
    for record in records:
        stage = _RUNG.match(str(record.get("stage", "")))
        if stage is None or int(stage.group(1)) >= sigma.size:
            continue
        accepted = record.get("acceptance") or [np.nan]
        yield (
            float(sigma[int(stage.group(1))]),
            float(record["effective_fraction"]),
            float(np.mean(accepted)),
            bool(record["resampled"]),
        )


def _exchanges(directory: Path) -> Exchanges | None:
    facts, pilot = directory / "correction.json", directory / "samples-replica-exchange" / "pilot.safetensors"
    if not facts.is_file() or not pilot.is_file():
        return None
    chains = read_json(facts).get("chains") or {}
    arrays, _ = _open(pilot, ("sigma",))
    rate = np.array(chains.get("swap_rates") or [], dtype=np.float64)
    if "sigma" not in arrays or arrays["sigma"].size != rate.size + 1:
        return None
    return Exchanges(arrays["sigma"][1:], rate)


def _open(file: Path, names: tuple[str, ...]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Some arrays of a file, and what is written with them; the other arrays are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as stream:
            header = stream.metadata() or {}
            arrays = {
                name: np.asarray(stream.get_tensor(name), dtype=np.float64)
                for name in set(names) & set(stream.keys())
            }
        facts = json.loads(json.loads(header["bgdiff"])["content"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: corrupt or truncated ({error}); delete it to redo this stage"
        ) from error
    return arrays, facts if isinstance(facts, dict) else {}
