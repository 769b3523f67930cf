"""The machine and the packages behind a number, found out without importing anything heavy."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["PACKAGES", "available_cores", "package_versions", "processor_name"]

PACKAGES = ("torch", "openmm", "mdtraj", "numpy", "scipy", "pymbar", "pot", "safetensors")
"""Distributions whose versions can change results."""


def package_versions() -> dict[str, str]:
    """Versions of Python and of :data:`PACKAGES`, without importing any of them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor_name() -> str:
    """Model of the processor as its maker calls it, as far as the operating system says."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
