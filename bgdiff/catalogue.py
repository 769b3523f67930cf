"""The table of known systems, read from their small text files only: no data set, no force field."""

import json
from pathlib import Path
from xml.etree import ElementTree

from bgdiff.analysis.text import with_error
from bgdiff.errors import SystemDefinitionError
from bgdiff.system_spec import ClusterSpec, ManyWellSpec, OpenMMSpec
from bgdiff.systems import System, list_systems, load_system

__all__ = ["describe_systems"]


def describe_systems() -> list[dict[str, str]]:
    """Name, title, number of particles, data frames and reference values of every system, as text.

    A system whose definition is wrong is listed with what is wrong in place of its title.
    """
    rows = []
    for name in list_systems():
        try:
            rows.append(_describe(load_system(name)))
        except SystemDefinitionError as error:
            rows.append(
                {"name": name, "title": str(error), "particles": "?", "frames": "?", "reference": "?"}
            )
    return rows


def _describe(system: System) -> dict[str, str]:
    return {
        "name": system.name,
        "title": system.spec.title,
        "particles": _particles(system),
        "frames": _frames(system),
        "reference": _reference(system),
    }


def _particles(system: System) -> str:
    if isinstance(system.spec, ManyWellSpec):
        return str(system.spec.copies)
    if isinstance(system.spec, ClusterSpec):
        return str(system.spec.particles)
    if not isinstance(system.spec, OpenMMSpec):
        return "1"
    path = system.path / system.spec.system
    try:
        return str(len(ElementTree.parse(path).findall("Particles/Particle")))
    except (ElementTree.ParseError, OSError) as error:
        raise SystemDefinitionError(f"{path}: is not an OpenMM System in XML ({error})") from error


def _frames(system: System) -> str:
    """Frames of the shipped data according to its provenance; the data file itself is not opened."""
    spec = system.spec.data
    if spec is None:
        return "none"
    if not (system.path / spec.file).is_file():
        return "missing"
    if spec.provenance is None:
        return "?"
    lengths = _json(system.path / spec.provenance).get("chain_lengths")
    return str(sum(lengths)) if isinstance(lengths, list) else "?"


def _reference(system: System) -> str:
    values = [
        f"{item['name']}: {with_error(item['value'], item.get('std_error'))}"
        for item in system.reference.get("free_energy_differences", [])
    ]
    return ", ".join(values) or "none"


def _json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
