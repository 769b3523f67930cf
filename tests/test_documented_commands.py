"""Every command of the documents: understood by the program, executed in a reduced form or by other tests."""

import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Call
from documents import PAGES, ROOT, Command, commands, inline_code

from bgdiff.cli import app

COMMANDS = [command for page in PAGES for command in commands(page)]
TINY = (
    "--samples 60 --set training.steps=20 --set training.batch_size=32 --set training.n_levels=4 "
    "--set network.width=16 --set network.depth=1 --set ladder.n_training_rungs=16 --set ladder.n_rungs=8 "
    "--set ladder.moment_samples=64 --set ladder.pilot_samples=32 --set ladder.normaliser_samples=0 "
    "--set sampling.n_held_out=20 --set correction.pilot_particles=32"
)
FEW = "--rung-samples 0 --frames 20"

# What is executed for a documented command: the same with less work. Runs are of the double well, whatever
# they are of in the document.
REDUCED = [
    (r"bgdiff systems", "systems"),
    (r"bgdiff info", "info --benchmark 0"),
    (r"bgdiff run --resume \S+", "run --resume runs/tiny"),
    (r"bgdiff run .*--preset quick.*", f"run double_well --preset quick --out runs/tiny {TINY}"),
    (r"bgdiff report \S+", "report runs/tiny"),
    (
        r"bgdiff free-energy \S+ --between .*",
        f'free-energy runs/tiny {FEW} --between "x in [-2, 0]" "x in [0, 2]"',
    ),
]

# Commands that other tests execute in a reduced form (none do those of pip and conda).
ELSEWHERE = {
    r"bgdiff new .*": "test_new_command.py::test_from_a_structure_to_the_next_command",
    r"bgdiff data generate .*": "test_new_command.py::test_from_a_structure_to_the_next_command",
    r"bgdiff data import .*": "test_import.py",
    r"bgdiff run .*--data .*": "test_cli.py",
    r"bgdiff run .*--rounds .*": "test_rounds.py",
    r"bgdiff run .*": "test_run.py",
    r"bgdiff reweight .*": "test_cli_reweight.py",
    r"bgdiff free-energy .*": "test_free_energy_command.py",
    r"bgdiff reference .*": "test_reference.py",
    r"bgdiff export .*": "test_interop_openmm_starts.py",
    r"python -m benchmarks\..*": "test_benchmarks.py",
    r"make .*": "test_project.py",
    r"pip .*": "",
    r"conda .*": "",
}


def line(command: Command) -> str:
    return shlex.join(command.words)


def of(program: str) -> list[Command]:
    found = [command for command in COMMANDS if command.words[0] == program]
    assert found
    return found


@cache
def program() -> Any:
    return typer.main.get_command(app)


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and what they give it."""
    command = program()
    while hasattr(command, "commands"):
        assert words, "names no command"
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("command", of("bgdiff"), ids=str)
def test_the_program_understands_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of options, how many values they take, which values: as when it is run, up to running it."""
    monkeypatch.chdir(tmp_path)
    found, words = leaf(list(command.words[1:]))
    found.make_context(found.name, words)


@pytest.mark.parametrize(
    "wrong", ["run double_well --presets quick", "run x --preset fast", "sample", "rum x"]
)
def test_what_is_wrong_is_noticed(wrong: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such option|not one of|missing|no command"):
        found, words = leaf(wrong.split())
        found.make_context(found.name, words)


def test_every_command_is_executed() -> None:
    patterns = [pattern for pattern, _ in REDUCED] + list(ELSEWHERE)
    forgotten = [str(c) for c in COMMANDS if not any(re.fullmatch(p, line(c)) for p in patterns)]
    assert not forgotten, "no rule says how these are executed:\n" + "\n".join(forgotten)
    for test in filter(None, ELSEWHERE.values()):
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_reduced_forms_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.chdir(tmp_path)
    documented = {pattern: [c for c in COMMANDS if re.fullmatch(pattern, line(c))] for pattern, _ in REDUCED}
    assert all(documented.values()), "a rule fits nothing"
    for pattern, reduced in sorted(
        REDUCED, key=lambda rule: "--out" not in rule[1]
    ):  # what makes the run is first
        outcome = call("--quiet", *shlex.split(reduced))
        assert outcome.code == 0, f"{[str(c) for c in documented[pattern]]}: {outcome.said}"
        assert outcome.out.strip()
    assert Path("runs/tiny/report.html").stat().st_size > 10_000


def test_commands_within_sentences_exist() -> None:
    """Their options too; what stands in capitals, such as DIR, is for the reader to replace."""
    for page in PAGES:
        for text in inline_code(page):
            words = text.removeprefix(".venv/bin/").split()
            if len(words) < 2 or words[0] != "bgdiff" or words[1].startswith("-"):
                continue
            found, rest = leaf(words[1:])
            known = {
                option for parameter in found.params for option in parameter.opts + parameter.secondary_opts
            }
            unknown = {w.split("=")[0] for w in rest if w.startswith("-")} - known - {"--help"}
            assert not unknown, f"{page.name}: {text}: {found.name} has no {unknown}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    inline = {t for page in PAGES for t in inline_code(page) if re.fullmatch(r"make [a-z]+", t)}
    for words in [*(c.words for c in of("make")), *(tuple(t.split()) for t in inline)]:
        assert set(words[1:]) <= targets
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z]+)", shown, flags=re.MULTILINE)) == targets


def test_extras_exist() -> None:
    """What pip is told to install from here."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    named = {
        extra
        for page in PAGES
        for names in re.findall(r"(?:bgdiff|\.)\[([a-z,]+)\]", page.read_text(encoding="utf-8"))
        for extra in names.split(",")
    }
    assert named <= set(extras)
    assert named


@pytest.mark.parametrize("command", of("python"), ids=str)
def test_benchmarks_exist(command: Command) -> None:
    module = ROOT / command.words[2].replace(".", "/")
    source = module.with_suffix(".py") if module.with_suffix(".py").exists() else module / "__main__.py"
    text = source.read_text(encoding="utf-8")
    assert '__name__ == "__main__"' in text
    options = set(
        re.findall(r'"(--[a-z-]+)"', text + (ROOT / "benchmarks" / "harness.py").read_text("utf-8"))
    )
    assert {word for word in command.words if word.startswith("--")} <= options
