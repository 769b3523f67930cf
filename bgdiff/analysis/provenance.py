"""Where the numbers of a run come from, and the commands that make them again."""

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bgdiff.analysis.results import Results
from bgdiff.analysis.run_files import RunFiles
from bgdiff.analysis.text import count, seconds

__all__ = ["commands", "provenance", "settings"]

_LONGEST = 24  # values of a list that are written out


def commands(run: RunFiles, directory: Path, *, free_energies: bool = False) -> list[str]:
    """What to type to get the run again; empty if ``run.json`` is not there.

    Args:
        directory: of the run, for its name.
        free_energies: whether ``bgdiff free-energy`` was asked for.
    """
    manifest, results = run.manifest, run.results
    if "config" not in manifest:
        return []
    out = shlex.quote(directory.resolve().name)
    words = [
        "bgdiff",
        "run",
        _system(manifest, results),
        "--preset",
        results.preset,
        "--seed",
        str(results.seed),
    ]
    device = manifest["config"].get("device", "cpu")
    words += ["--device", device] if device != "cpu" else []
    for path in manifest.get("data_paths") or ():
        words += ["--data", str(path)]
    for name, value in _asked(manifest, results):
        words += ["--set", f"{name}={value}"]
    lines = [f"{shlex.join(words)} --out {out}"]
    own = manifest["config"].get("correction", {}).get("method", results.method)
    if own != results.method:
        lines.append(f"bgdiff reweight {out} --method {results.method}")
    if free_energies:
        lines.append(f"bgdiff free-energy {out}")
    return lines


def provenance(run: RunFiles) -> Iterator[tuple[str, str]]:
    """Names and values of the table: data with its checksum, costs, time, versions."""
    results, manifest = run.results, run.manifest
    made = manifest.get("data_provenance") or {}
    method = f"; {made['method']}" if "method" in made else ""
    yield (
        "data",
        f"{count(results.n_data)} frames{method}; {count(results.n_held_out)} held out for the weights",
    )
    if "command" in made:
        yield "data made by", str(made["command"])
    for name, key in (
        ("checksum of the data", "data_digest"),
        ("checksum of the potential", "system_digest"),
    ):
        if key in manifest:
            yield name, f"SHA-256 {manifest[key]}"
    if "created" in manifest:
        yield "started", str(manifest["created"])
    yield "seed", str(results.seed)
    yield "target evaluations", count(results.target_evaluations)
    if results.timings:
        stages = ", ".join(f"{stage} {seconds(time)}" for stage, time in results.timings.items())
        yield "time", f"{stages}; together {seconds(sum(results.timings.values()))}"
    if results.log_z is not None:
        yield "log Z", f"{results.log_z.method}, {count(results.log_z.n_eff)} effective samples"
    versions = {"bgdiff": results.bgdiff_version} | results.versions
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())


def settings(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Everything in ``run.json``, ``{"a": {"b": 1}}`` as ``("a.b", "1")``; long lists are cut."""
    yield from _flatten(manifest)


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for position, item in enumerate(value):
            yield from _flatten(item, f"{prefix}.{position}")
    elif isinstance(value, list):
        more = f", … ({count(len(value))} values)" if len(value) > _LONGEST else ""
        yield prefix, ", ".join(map(str, value[:_LONGEST])) + more
    else:
        yield prefix, str(value)


def _system(manifest: Mapping[str, Any], results: Results) -> str:
    """The system's name if that finds it, or else its folder."""
    from bgdiff.systems import list_systems

    path = manifest.get("system_path")
    return results.system if path is None or results.system in list_systems() else str(path)


def _asked(manifest: Mapping[str, Any], results: Results) -> Iterator[tuple[str, str]]:
    """Settings that were asked for; those of runs that do not say are told from the preset's."""
    if isinstance(asked := manifest.get("overrides"), Mapping):
        found = dict(_leaves(asked))
    else:
        found = _difference(manifest["config"], results.preset)
    for name, value in found.items():
        yield name, value if isinstance(value, str) else json.dumps(value)


def _difference(config: Mapping[str, Any], preset: str) -> dict[str, Any]:
    from bgdiff.config import make_config, parse_config
    from bgdiff.errors import ConfigError

    try:
        usual = dict(_leaves(make_config(preset).model_dump(mode="json")))
        ours = dict(_leaves(parse_config(dict(config)).model_dump(mode="json")))
    except ConfigError:  # settings of another version
        return {}
    return {
        name: value
        for name, value in ours.items()
        if name not in ("preset", "seed", "device") and usual.get(name, ...) != value
    }


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, name)
        else:
            yield name, item
