"""What the options of the command line mean, and which values are refused."""

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bgdiff.errors import ConfigError

__all__ = [
    "Correction",
    "CorrectionMethod",
    "Data",
    "DataMethod",
    "EngineName",
    "Evaluator",
    "Out",
    "Preset",
    "Processes",
    "Rounds",
    "RunDirectory",
    "Samples",
    "Seed",
    "Settings",
    "SystemName",
    "check_device",
    "folder_name",
    "parse_overrides",
]


class Preset(StrEnum):
    """How much work a run does."""

    quick = "quick"
    standard = "standard"
    best = "best"


class CorrectionMethod(StrEnum):
    """How samples are corrected."""

    is_ = "is"
    smc = "smc"
    imh = "imh"
    replica_exchange = "replica-exchange"


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


Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Run directory to make.", show_default="runs/SYSTEM-PRESET-SEED"),
]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        help="Your own trajectory instead of the shipped data; once per trajectory.", show_default=False
    ),
]
Samples = Annotated[
    int | None, typer.Option(min=2, max=10**9, help="Samples to draw.", show_default="from the preset")
]
Rounds = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=100,
        help="Rounds of self-correcting training: draw, correct, train on what came out.",
        show_default="from the preset",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a setting of the preset, such as training.steps=500; may be repeated.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")]
RunDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="Run directory.", show_default=False)]
SystemName = Annotated[
    str, typer.Argument(metavar="SYSTEM", help="Name of a system, or its folder.", show_default=False)
]
Processes = Annotated[
    int | None, typer.Option(min=1, max=4096, help="Processes to use.", show_default="one per core")
]
Evaluator = Annotated[
    EngineName,
    typer.Option(
        "--engine",
        help="What evaluates molecules; auto: the batched engine if it covers the force field, else OpenMM.",
    ),
]
Correction = Annotated[
    CorrectionMethod | None,
    typer.Option(
        help="is: weight independent walks; smc: sequential Monte Carlo, with moves at the rungs; "
        "imh: Markov chains with walks as proposals; replica-exchange: Markov chains over all rungs at once.",
        show_default="as the run was set",
    ),
]


def folder_name(system: str) -> str:
    """Name of the folder of a system that is given by name or by path."""
    folder = Path(system).resolve()
    return folder.parent.name if folder.name == "system.yaml" else folder.name


def parse_overrides(settings: list[str]) -> dict[str, Any]:
    """Turn ``["training.steps=500"]`` into ``{"training": {"steps": 500}}``; values are JSON or text.

    Sections may have sections, as in ``network.particles.width=32``.

    Raises:
        ConfigError: one of them is not of that form.
    """
    overrides: dict[str, Any] = {}
    for setting in settings:
        match = re.fullmatch(r"(\w+(?:\.\w+)+)=(.*)", setting)
        if match is None:
            raise ConfigError(f"--set {setting}: must look like training.steps=500")
        name, text = match.groups()
        *sections, field = name.split(".")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        place = overrides
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {setting}: {section} is set as a whole before")
        place[field] = value
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
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"--device {device}: is not usable on this machine ({reason}); use --device cpu"
        ) from error
