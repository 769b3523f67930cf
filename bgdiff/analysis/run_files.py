"""Reads what a run left behind for its report; says clearly what is missing or damaged."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from bgdiff.analysis.results import Results, read_results
from bgdiff.errors import CheckpointError
from bgdiff.io import read_json

__all__ = ["RunFiles", "read_history", "read_run"]

logger = logging.getLogger(__name__)

Arrays = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A finished run. ``proposal`` holds ``log_weight``, ``energy`` and ``obs_<name>`` of the samples;
    ``data`` the same without weights; ``held_out`` may hold ``log_weight``; ``cluster`` holds what
    :class:`~bgdiff.analysis.cluster_record.ClusterRecord` gathered. Missing files are empty.
    """

    results: Results
    proposal: Arrays
    data: Arrays
    held_out: Arrays
    history: list[dict[str, Any]]
    manifest: dict[str, Any]
    cluster: dict[str, NDArray[Any]] = field(default_factory=dict)


def read_run(directory: Path) -> RunFiles:
    """Read the files of a run that its report shows.

    Raises:
        CheckpointError: ``results.json`` or ``proposal.npz`` is missing, a file is damaged, or the two do
            not belong together.
    """
    results = read_results(directory / "results.json")
    proposal = _arrays(directory / "proposal.npz", required=True)
    for name in ("log_weight", "energy"):
        if name not in proposal:
            raise CheckpointError(
                f"{directory / 'proposal.npz'}: has no array {name}; write it anew with: bgdiff reweight"
            )
    for name, values in proposal.items():
        if values.shape[:1] != (results.n_samples,):
            raise CheckpointError(
                f"{directory / 'proposal.npz'}: {name} has shape {values.shape}, but results.json speaks of "
                f"{results.n_samples} samples; bring them together with: bgdiff reweight"
            )
    manifest = directory / "run.json"
    content = read_json(manifest) if manifest.is_file() else {}
    return RunFiles(
        results=results,
        proposal=proposal,
        data=_arrays(directory / "data.npz"),
        held_out=_arrays(directory / "held_out.npz"),
        history=_whole_history(directory),
        manifest=content if isinstance(content, dict) else {},
        cluster=_arrays(directory / "cluster.npz", text=True),
    )


def _whole_history(directory: Path) -> list[dict[str, Any]]:
    """The first training and those of all rounds one after the other; ``round`` says which is which."""
    files = [directory / "train" / "history.jsonl", *sorted(directory.glob("rounds/*/history.jsonl"))]
    joined: list[dict[str, Any]] = []
    for index, file in enumerate(files):
        before = joined[-1]["step"] if joined else 0
        joined += [
            {**record, "step": before + record["step"], "round": index} for record in read_history(file)
        ]
    return joined


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the training history, one JSON object a line; damaged lines are left out with a warning."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    records, damaged = [], 0
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int | float):
            records.append(record)
        else:
            damaged += 1
    if damaged:
        logger.warning("%s: %d damaged lines left out", path, damaged)
    return records


def _arrays(path: Path, required: bool = False, text: bool = False) -> dict[str, NDArray[Any]]:
    """Numbers as float64, and text as it is if wanted."""
    if not required and not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = ((name, content[name]) for name in content.files)
            return {
                name: values if values.dtype.kind == "U" else np.asarray(values, dtype=np.float64)
                for name, values in arrays
                if values.dtype.kind in ("fiubU" if text else "fiub")
            }
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: file is missing; the run is incomplete or was moved") from error
    except (OSError, ValueError, EOFError, BadZipFile, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: corrupt or truncated ({error}); delete it to redo this stage"
        ) from error
