"""What the options of the command line mean, and which values are refused."""

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Any

from bgdiff.errors import ConfigError

__all__ = ["DataMethod", "EngineName", "Preset", "check_device", "folder_name", "parse_overrides"]


class Preset(StrEnum):
    """How much work a run does."""

    quick = "quick"
    standard = "standard"
    best = "best"


class DataMethod(StrEnum):
    """How data are made."""

    md = "md"
    parallel_tempering = "parallel-tempering"
    mala = "mala"


class EngineName(StrEnum):
    """What evaluates a molecule."""

    auto = "auto"
    kernel = "kernel"
    torch = "torch"
    openmm = "openmm"


def folder_name(system: str) -> str:
    """Name of the folder of a system that is given by name or by path."""
    folder = Path(system).resolve()
    return folder.parent.name if folder.name == "system.yaml" else folder.name


def parse_overrides(settings: list[str]) -> dict[str, dict[str, Any]]:
    """Turn ``["training.steps=500"]`` into ``{"training": {"steps": 500}}``; values are JSON or text.

    Raises:
        ConfigError: one of them is not of that form.
    """
    overrides: dict[str, dict[str, Any]] = {}
    for setting in settings:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.*)", setting)
        if match is None:
            raise ConfigError(f"--set {setting}: must look like training.steps=500")
        section, field, text = match.groups()
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        overrides.setdefault(section, {})[field] = value
    return overrides


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or this machine does not have.

    Raises:
        ConfigError: it is not usable.
    """
    if device == "cpu":
        return
    if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", device):
        raise ConfigError(f"--device {device}: must be cpu, cuda, cuda:1 (the second GPU), mps or xpu")
    import torch

    try:
        torch.zeros(1, device=torch.device(device)).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--device {device}: is not usable on this machine ({reason}); use --device cpu"
        ) from error
