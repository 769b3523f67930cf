"""Doing what a page of the documents says: its commands and its Python, as printed, with little work each."""

import contextlib
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Call
from documents import ROOT, Command, Snippet
from stand_ins import STAND_INS

__all__ = ["Reader"]

_LESS = {
    "benchmarks.forcefield": ["--quick"],
    "benchmarks.objectives": ["--quick", "--seeds", "1", "--part", "0/10"],
    "starts/simulate.py": ["--ps", "0.01", "--spacing", "0.005", "--states", "0"],
}
"""Given after the documented words; the last of them count."""
_FEW_STEPS = ["--set", "recipe.steps=20"]
"""The same, where a documented ``--set recipe.steps`` would undo ``--quick``."""


class Reader:
    """Somebody who types what a page says, from its top to its end, in an empty directory.

    Args:
        call: the command line in this process.
        shared: folder of finished runs, which many pages take for granted.
    """

    def __init__(self, call: Call, shared: Path) -> None:
        self._call, self._shared = call, shared
        self._names: dict[str, Any] = {"__name__": "__main__"}

    def do(self, step: Command | Snippet) -> None:
        """Do a step of the page; what goes wrong fails the test, which says at which line of which file."""
        try:
            if isinstance(step, Snippet):
                self._provide(name for name in STAND_INS if f'"{name}"' in step.code)
                exec(compile(step.code, str(step), "exec"), self._names)
            else:
                self._provide(word.rstrip("/") for word in step.words)
                self._run(step.words)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{step}\n{type(error).__name__}: {error}")

    def _provide(self, words: Iterable[str]) -> None:
        """Make the files that are named, are not there, and that a reader would have."""
        for word in words:
            if word in STAND_INS and not Path(word).exists():
                Path(word).parent.mkdir(parents=True, exist_ok=True)
                STAND_INS[word](Path(word).absolute(), self._shared)

    def _run(self, words: tuple[str, ...]) -> None:
        match words:
            case ("bgdiff", *arguments):
                outcome = self._call(*arguments)
                if outcome.code:
                    raise RuntimeError(f"exit code {outcome.code}: {outcome.said}")
            case ("python", "-m", module, *arguments) if module in _LESS:
                few = _FEW_STEPS if any(word.startswith("recipe.steps") for word in arguments) else []
                with _arguments(module, [*arguments, *_LESS[module], *few]):
                    runpy.run_module(module, run_name="__main__", alter_sys=True)
            case ("python", script, *arguments) if script in _LESS:
                with _arguments(script, [*arguments, *_LESS[script]]):
                    runpy.run_path(script, run_name="__main__")
            case ("make", *targets):
                for asked in _made(targets):
                    self._run(("bgdiff", *asked))
            case _:
                raise RuntimeError("no way to run this is known")


@contextlib.contextmanager
def _arguments(program: str, arguments: list[str]) -> Any:
    before, threads = sys.argv, torch.get_num_threads()
    sys.argv = [program, *arguments]
    try:
        yield
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = before
        torch.set_num_threads(threads)


def _made(targets: list[str]) -> list[list[str]]:
    """What the Makefile, with an environment that is complete already, calls ``bgdiff`` with."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, name)
    asked, program = Path("asked"), Path(".venv/bin/bgdiff")
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text('#!/bin/sh\necho "$*" >> asked\n', encoding="utf-8")
    program.chmod(0o755)
    Path(".venv/.installed").touch()
    asked.unlink(missing_ok=True)
    done = subprocess.run(["make", *targets], capture_output=True, text=True, check=False)
    if done.returncode or not asked.exists():
        raise RuntimeError(f"make: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return [shlex.split(line) for line in asked.read_text(encoding="utf-8").splitlines()]
