"""What this installation consists of and how fast it is: the content of ``bgdiff info``."""

import platform
from collections.abc import Callable, Iterator
from typing import Any

import bgdiff
from bgdiff.environment import available_cores, package_versions, processor_name

__all__ = ["benchmark", "collect_info", "recommended_settings"]

_SYSTEM = "alanine_dipeptide_vacuum"
_BATCH = 512
_VARIANTS = {
    "v4": "AVX-512",
    "v3": "AVX2 and FMA",
    "v2": "SSE4.2",
    "portable": "any processor of this architecture",
}
_OPENMM_BATCH = 16  # OpenMM takes one conformation at a time, so that its rate does not depend on the batch


def collect_info(seconds: float = 2.0) -> dict[str, Any]:
    """Versions, machine, engine, OpenMM platforms, systems' settings and a short benchmark, as plain values.

    Args:
        seconds: about how long the benchmark may take; 0 for none.
    """
    import openmm
    import torch

    platforms = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    devices = [
        "cpu",
        *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())),
    ]
    info: dict[str, Any] = {
        "bgdiff": bgdiff.__version__,
        "versions": package_versions(),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": processor_name(),
            "cores": available_cores(),
            "threads": torch.get_num_threads(),
            "devices": devices,
        },
        "engine": _engine(),
        "openmm_platforms": platforms,
        "settings": recommended_settings(),
    }
    if seconds > 0:
        info["benchmark"] = benchmark(seconds)
    return info


def recommended_settings() -> dict[str, dict[str, dict[str, Any]]]:
    """What the known systems change in each preset, field by field: ``{system: {preset: {field: value}}}``.

    Systems that change nothing, or whose definition is wrong, are left out.
    """
    from bgdiff.errors import SystemDefinitionError
    from bgdiff.systems import list_systems, load_system

    found = {}
    for name in list_systems():
        try:
            settings = load_system(name).spec.settings
        except SystemDefinitionError:
            continue
        if settings:
            found[name] = {preset: dict(_fields(changes)) for preset, changes in settings.items()}
    return found


def _fields(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings as ``--set`` names them: section.field."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _engine() -> dict[str, Any]:
    """What the batched engine runs on here, and why it is not more."""
    from bgdiff.targets.forcefield.kernel import kernel_status

    status = kernel_status()
    if status.variant is None:
        description = "torch: there is no compiled kernel"
    else:
        description = f"compiled kernel, variant {status.variant} ({_VARIANTS[status.variant]})"
    return {
        "compiled": status.variant is not None,
        "variant": status.variant,
        "usable_variants": list(status.usable),
        "description": description,
        "reason": status.reason,
    }


def benchmark(seconds: float) -> dict[str, Any]:
    """Energies and forces per second of alanine dipeptide in vacuum, one thread each, taking turns.

    Returns:
        The system, its number of atoms, the batch and ``rates``: for every evaluator its ``name``,
        ``per_second`` and ``ratio`` to OpenMM.
    """
    import torch

    from bgdiff.random import generator_for
    from bgdiff.systems import load_system
    from bgdiff.targets.forcefield import ForceFieldTarget
    from bgdiff.targets.forcefield.parser import parse_system
    from bgdiff.targets.openmm import OpenMMTarget
    from bgdiff.timing import interleaved_rates

    system = load_system(_SYSTEM)
    tables = parse_system(system.openmm_system)
    structure = torch.from_numpy(system.structure)
    noise = torch.randn((_BATCH, *structure.shape), generator=generator_for(0, "info"), dtype=structure.dtype)
    x = structure + 0.002 * noise
    jobs: dict[str, tuple[Callable[[], object], float]] = {}

    def add(name: str, evaluate: Callable[[torch.Tensor], object], batch: torch.Tensor) -> None:
        jobs[name] = (lambda: evaluate(batch), len(batch))

    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        target = ForceFieldTarget(tables, system.temperature, dtype=dtype, threads=1)
        add(f"engine, {name}", target.energy_and_force, x.to(dtype))
    slow = OpenMMTarget(system.openmm_system, system.temperature)
    openmm_name = f"OpenMM, {slow.platform}"
    add(openmm_name, slow.energy_and_force, x[:_OPENMM_BATCH])
    rates = interleaved_rates(jobs, seconds)
    return {
        "system": system.name,
        "atoms": len(structure),
        "batch": _BATCH,
        "rates": [
            {"name": name, "per_second": rate.best, "ratio": rate.best / rates[openmm_name].best}
            for name, rate in rates.items()
        ],
    }
