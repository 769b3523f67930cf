"""The work of documented commands, made small: the commands stay as they are printed, sizes do not."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from documents import ROOT
from matplotlib.figure import Figure

from bgdiff import config, free_energies, info, sample_check, systems, timing
from bgdiff.analysis import comparison, report
from bgdiff.config import RunConfig
from bgdiff.data import alchemical_reference, dataset, generate, reference
from bgdiff.data.dataset import Dataset
from bgdiff.free_energies import LEAST_RUNG_SAMPLES, Request
from bgdiff.io import atomic_path
from bgdiff.ladder import pair_fit
from bgdiff.system_spec import OpenMMSpec, SystemSpec, read_spec
from bgdiff.targets.openmm import OpenMMTarget

__all__ = ["make_small"]

_MOST: dict[str, Any] = {
    "network": {
        "width": 16,
        "depth": 1,
        "particles": {
            "radial": 8, "scalars": 4, "vectors": 2, "tensors": 1, "messages": 4, "width": 8, "depth": 1,
            "embedding": 8,
        },
    },
    "ladder": {
        "n_training_rungs": 12, "n_rungs": 6, "moment_samples": 32, "pilot_samples": 32,
        "normaliser_samples": 40,
    },
    "training": {"steps": 20, "batch_size": 32},
    "rounds": {"n_samples": 100, "n_rungs": 6, "steps": 10},
    "sampling": {"n_samples": 50, "n_held_out": 20},
    "correction": {
        "repeats": 1, "bridge_places": 0, "pilot_particles": 16, "chains": 4, "local_moves": 1,
        "tuning_rounds": 10, "thinning": 1,
    },
}  # fmt: skip
"""Of a run: settings that are above are brought down to these."""

_SHORT: dict[str, dict[str, float]] = {
    # of molecular dynamics, and of chains and ladders of reduced densities
    "generate": {
        "chains_per_start": 1, "length_ns": 0.001, "spacing_ps": 0.01, "equilibration_ps": 0.1,
        "frames": 60, "spacing": 2, "equilibration": 10,
    },
    "replica_exchange": {
        "ladders": 4, "length_ns": 0.004, "equilibration_ns": 0.0001, "temperatures": 3, "samples": 40,
        "leapfrog_steps": 5, "spacing": 1, "equilibration": 20, "rungs": 4,
    },
    "transformations": {"ladders": 2, "length_ns": 0.001, "equilibration_ns": 0.0001},
}  # fmt: skip
_STARTS = 2  # of ladders; those of data must be in all basins
_FRAMES = 1500
_HOT = 3000.0  # K: barriers are crossed at once


def _brought_down(value: Any, most: Any) -> Any:
    """Numbers of nested sections, none above those of ``most``."""
    if isinstance(value, dict) and isinstance(most, dict):
        return {key: _brought_down(one, most.get(key)) for key, one in value.items()}
    return value if most is None or value is None else min(value, most)


def _small_config(content: RunConfig) -> RunConfig:
    """Settings of a run that takes a second."""
    return RunConfig.model_validate(_brought_down(content.model_dump(), _MOST))


def _small_spec(spec: SystemSpec) -> SystemSpec:
    """The same system, whose data and references are soon made."""
    content = spec.model_dump()
    if isinstance(spec, OpenMMSpec) and content["replica_exchange"]:
        content["replica_exchange"]["t_max"] = _HOT
    for section, most in _SHORT.items():
        sections = content.get(section) or []
        for one in sections if isinstance(sections, list) else [sections]:
            one.update(_brought_down(one, most))
            one["starts"] = one["starts"] if section == "generate" else one["starts"][:_STARTS]
            if one.get("interpolation"):
                one["interpolation"].update(_brought_down(one["interpolation"], most))
    return type(spec).model_validate(content)


_SHIPPED: dict[Path, Dataset] = {}


def _thinned(load: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """Frames at even distances; what comes with the systems is read once."""

    def thinned(system: systems.System, path: Any = None) -> Dataset:
        own = system.data_path if path is None else None
        if own in _SHIPPED:
            return _SHIPPED[own]
        data = load(system, path)
        rows = torch.linspace(0, len(data) - 1, min(_FRAMES, len(data)), dtype=torch.float64).round().long()
        few = data.select(rows)
        if own is not None and own.is_relative_to(ROOT):
            _SHIPPED[own] = few
        return few

    return thinned


def _small_request(**fields: Any) -> Request:
    wanted = Request(**fields)
    return replace(
        wanted,
        bootstrap=min(wanted.bootstrap, 2),
        frames=wanted.frames and min(wanted.frames, 20),
        rung_samples=min(wanted.rung_samples, LEAST_RUNG_SAMPLES),
    )


def _with_less(function: Callable[..., Any], **most: float) -> Callable[..., Any]:
    """The function, its numbers brought down to ``most``; it uses one process where it could use several."""

    @wraps(function)
    def called(*given: Any, **named: Any) -> Any:
        bound = signature(function).bind(*given, **named)
        bound.apply_defaults()
        bound.arguments.update({name: _brought_down(bound.arguments[name], most[name]) for name in most})
        bound.arguments.update({"processes": 1} if "processes" in bound.arguments else {})
        return function(*bound.args, **bound.kwargs)

    return called


def _blank(figure: Figure, path: Path | str) -> None:
    """How figures look is for other tests to see."""
    with atomic_path(path) as temporary:
        Figure(figsize=(0.1, 0.1)).savefig(temporary)


_DRAWN: set[tuple[str, str]] = set()


def _once(draw: Callable[..., Iterable[Any]]) -> Callable[..., Iterable[Any]]:
    """Figures of the first run of a system; drawing them is most of the work of a small run."""

    @wraps(draw)
    def drawn(run: Any, *given: Any) -> Iterable[Any]:
        key = (draw.__name__, run.results.system)
        if key in _DRAWN:
            return []
        _DRAWN.add(key)
        return draw(run, *given)

    return drawn


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Bring sizes down wherever the program takes them from presets, system definitions or its user."""
    parse, load = config.parse_config, dataset.load_dataset

    def less(module: Any, name: str, **most: float) -> None:
        patch.setattr(module, name, _with_less(getattr(module, name), **most))

    patch.setattr(config, "parse_config", lambda content: _small_config(parse(content)))
    patch.setattr(systems, "read_spec", lambda path: _small_spec(read_spec(path)))
    patch.setattr(dataset, "load_dataset", _thinned(load))
    patch.setattr(free_energies, "Request", _small_request)
    less(generate, "generate_data", frames=60)
    less(reference, "compute_reference", length_ns=0.001)
    less(alchemical_reference, "compute_transformation", length_ns=0.001)
    less(sample_check, "compare", n=20)
    patch.setattr(comparison, "_CONFIGURATIONS_13", 10)
    patch.setattr(pair_fit, "_FITTED", 3)
    less(info, "collect_info", seconds=0.02)
    less(OpenMMTarget, "__init__")
    patch.setattr(Figure, "draw_without_rendering", lambda figure: None)
    patch.setattr(report, "save_figure", _blank)
    for draw in ("draw_figures", "structure_figures"):
        patch.setattr(report, draw, _once(getattr(report, draw)))
    less(timing, "interleaved_rates", seconds=0.3)
