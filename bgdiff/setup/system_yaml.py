"""The text of a new ``system.yaml``, for people to read and change."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bgdiff.observable_spec import ConditionSpec
from bgdiff.setup.basins import Basins
from bgdiff.setup.lengths import Lengths
from bgdiff.setup.torsions import Torsion

__all__ = ["Content", "system_yaml"]


@dataclass(frozen=True)
class Content:
    """What a ``system.yaml`` is made of."""

    name: str
    title: str
    temperature: float
    """K"""
    origin: Sequence[str]
    """Lines of the comment at its top"""
    torsions: Sequence[Torsion]
    basins: Basins
    starts: Sequence[Mapping[str, float]]
    """Torsions in degrees by name"""
    lengths: Lengths
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of runs with the standard preset, by section"""


def system_yaml(content: Content) -> str:
    """Write all sections with comments that say what may be changed."""
    return "\n".join(_lines(content)) + "\n"


def _lines(content: Content) -> Iterator[str]:
    yield from (f"# {line}" for line in content.origin)
    yield ""
    yield f"name: {_scalar(content.name)}"
    yield f"title: {_scalar(content.title)}"
    yield "kind: openmm"
    yield _commented(f"temperature: {content.temperature:.10g}", "K")
    yield _commented("system: system.xml", "OpenMM System: force field and parameters")
    yield _commented("topology: topology.pdb", "atoms, bonds and the structure of lowest energy nearby")
    yield "coordinates: internal"
    yield ""
    yield _commented("observables:", "atom indices count from 0; more can be added at any time")
    written = {
        f"  {torsion.name}: {{dihedral: {list(torsion.atoms)}}}": torsion.note for torsion in content.torsions
    }
    width = max(map(len, written), default=0)
    yield from (_commented(f"{text:<{width}}", note) for text, note in written.items())
    for name, spec in content.basins.observables.items():
        yield f"  {name}: {json.dumps(spec.model_dump(mode='json', exclude_none=True))}"
    if not content.torsions and not content.basins.observables:
        yield "  size: {radius_of_gyration: {}}"
    if content.basins.basins:
        yield ""
        what = "an example, to be changed; " if content.basins.example else ""
        yield _commented("basins:", f"{what}half-open [lo, hi), degrees for angles")
        for name, conditions in content.basins.basins.items():
            yield f"  {name}: {_basin(conditions)}"
        yield ""
        yield _commented("free_energy_differences:", "F(final) - F(initial)")
        for name, initial, final in content.basins.differences:
            yield f"  - {{name: {name}, initial: {initial}, final: {final}}}"
    yield ""
    yield _commented(
        "data: {file: data/md.dcd, provenance: data/md.json}", f"bgdiff data generate {content.name}"
    )
    if content.settings:
        yield ""
        yield _commented("settings:", "of runs: what molecules of this size were found to need")
        yield "  standard:"
        yield from (f"    {section}: {_mapping(values)}" for section, values in content.settings.items())
    yield ""
    yield from _generate(content)
    yield ""
    yield from _replica_exchange(content)


def _generate(content: Content) -> Iterator[str]:
    lengths = content.lengths
    yield _commented(
        "generate:", "plain MD, in short chains from every basin: bgdiff corrects their proportions"
    )
    yield "  starts:"
    yield from (f"    - {_mapping(start)}" for start in content.starts)
    yield f"  chains_per_start: {lengths.chains_per_start}"
    yield _commented(
        f"  length_ns: {lengths.length_ns:g}", "of each chain; longer chains for slower molecules"
    )
    yield f"  spacing_ps: {lengths.spacing_ps:g}"
    yield "  step_fs: 1.0"
    yield "  friction_per_ps: 5.0"
    yield f"  equilibration_ps: {lengths.equilibration_ps:g}"


def _replica_exchange(content: Content) -> Iterator[str]:
    lengths = content.lengths
    groups = 8
    starts = [content.starts[index % len(content.starts)] for index in range(groups)]
    yield _commented("replica_exchange:", "independent reference values, one group of ladders per start")
    yield "  starts:"
    yield from (f"    - {_mapping(start)}" for start in starts)
    yield _commented(f"  t_max: {max(650.0, 2.2 * content.temperature):g}", "K")
    yield _commented(
        f"  temperatures: {lengths.temperatures}", "more, if fewer than 30 % of exchanges are accepted"
    )
    yield f"  ladders: {lengths.ladders}"
    yield f"  length_ns: {lengths.ladder_ns:g}"
    yield f"  equilibration_ns: {0.1 * lengths.ladder_ns:.2g}"
    yield "  swap_ps: 0.05"
    yield "  spacing_ps: 0.1"
    yield "  step_fs: 1.0"
    yield "  friction_per_ps: 5.0"


def _basin(conditions: Sequence[ConditionSpec]) -> str:
    written = []
    for one in conditions:
        intervals = ", ".join(f"[{_number(lo)}, {_number(hi)}]" for lo, hi in one.intervals)
        written.append(f"{{observable: {one.observable}, intervals: [{intervals}]}}")
    return written[0] if len(written) == 1 else f"{{conditions: [{', '.join(written)}]}}"


def _number(value: float) -> str:
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    return f"{value:.12g}"


def _mapping(values: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {_value(value)}" for name, value in values.items()) + "}"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')


def _commented(text: str, comment: str) -> str:
    return f"{text:<27} # {comment}"


def _scalar(text: str) -> str:
    """A string as it is if YAML reads it as that string, else in quotes."""
    import yaml

    try:
        plain: Any = yaml.safe_load(f"x: {text}")
    except yaml.YAMLError:
        plain = None
    return text if plain == {"x": text} else json.dumps(text, ensure_ascii=False)
