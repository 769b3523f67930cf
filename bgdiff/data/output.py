"""Where data sets are written, never over another file, and what is noted beside them."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import bgdiff
from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.io import make_directory

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = [
    "choose_output",
    "data_versions",
    "provenance_path",
    "sha256_of",
    "system_argument",
    "system_of_data",
]


def choose_output(system: "System", out: Path | str | None) -> Path:
    """The file to write: ``out``, or where ``system.yaml`` says its data are, if none are there yet.

    Otherwise a file in the current directory that is named after the system. Its folder is made.

    Raises:
        ConfigError: the file or its provenance exists already, or ends in ``.json``.
        StorageError: the folder cannot be made.
    """
    path = _default(system) if out is None else Path(out)
    for existing in (path, provenance_path(path, system)):
        if existing.exists():
            raise ConfigError(f"{existing}: exists already; remove it or choose another file with --out")
    if path.suffix == ".json":
        raise ConfigError(f"{path}: the .json beside the data is for their provenance; choose another --out")
    make_directory(path.parent)
    return path


def system_of_data(system: "System", out: Path, temperature: float | None) -> "System":
    """The system at the temperature (K) of data that are written to ``out``.

    That is ``temperature``, or what ``system.yaml`` says of its data if ``out`` are these, or the system's.

    Raises:
        ConfigError: the two disagree, or the system is no molecule and has no temperature.
    """
    said = system.spec.data.temperature if system.spec.data and out == system.data_path else None
    if said is not None and temperature is not None and said != temperature:
        raise ConfigError(
            f"{system.path}/system.yaml: says data.temperature: {said:g} K, but {temperature:g} K is asked "
            "for; choose another --out, or change it"
        )
    kelvin = said if temperature is None else temperature
    return system if kelvin is None else system.at_temperature(kelvin)


def provenance_path(data: Path, system: "System | None" = None) -> Path:
    """Where the provenance of a data file lies: where the system says, or beside it, ``.json``."""
    if system is not None and data == system.data_path and system.spec.data and system.spec.data.provenance:
        return system.path / system.spec.data.provenance
    return data.with_suffix(".json")


def system_argument(system: "System") -> str:
    """What a user types to name the system: its name if that is enough to find it, else its folder."""
    from bgdiff.systems import load_system

    try:
        found = load_system(system.name).path
    except SystemDefinitionError:
        return str(system.path)
    return system.name if found.resolve() == system.path.resolve() else str(system.path)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def data_versions() -> dict[str, str]:
    """Versions of what made or read the conformations."""
    import mdtraj
    import openmm
    import torch

    return {
        "bgdiff": bgdiff.__version__,
        "openmm": openmm.__version__,
        "mdtraj": mdtraj.__version__,
        "torch": torch.__version__,
    }


def _default(system: "System") -> Path:
    named = system.data_path
    if named is not None and not named.exists():
        folder = next(folder for folder in (named.parent, *named.parent.parents) if folder.exists())
        if os.access(folder, os.W_OK):
            return named
    return Path(f"{system.name}{'.npz' if system.topology is None else '.dcd'}")
