"""Every command of the documents is executed as it is printed, and so are their examples in Python.

Each page is read from its top to its end in an empty directory, where earlier commands of the page have left
what later ones need, and stand-ins (:mod:`stand_ins`) are what a reader has. The page of a system is read in
a copy of its folder without the data, which are to be made. Only sizes differ: of networks, data, simulations
(:mod:`small_work`).
"""

import re
import shlex
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Call
from documented_steps import Reader
from documents import PAGES, ROOT, Command, Snippet, commands, inline_code, steps, unread
from small_work import make_small
from stand_ins import STAND_INS

from bgdiff.cli import app
from bgdiff.systems import load_system

SYSTEMS = ROOT / "systems"
STEPS = [step for page in PAGES for step in steps(page)]
COMMANDS = [command for page in PAGES for command in commands(page)]

# Executed by other tests: the words of the documents, or the page's examples, in a reduced form.
ELSEWHERE = {
    r"python -m benchmarks\.(main_job|free_energies|correction|clusters) .*": "test_benchmarks.py",
    r"python -m benchmarks\.own_molecule .*": "test_benchmarks.py",
    r"python -m benchmarks\.composition .*": "test_composition_guide.py",
    r"python notebooks/execute\.py.*": "test_notebooks.py",
    r"docs/composition\.md:\d+: Python": "test_composition_guide.py",
    r"docs/interop\.md:\d+: Python": "test_interop_guide.py",
    r"docs/openmm\.md:\d+: Python": "test_interop_openmm_starts.py",
}
NOT_EXECUTED = {
    r"pip .*": "installs packages, which `make install` does wherever this test runs",
    r"conda .*": "makes an environment; test_project.py compares environment.yml with pyproject.toml",
    r"make install": "installs packages; `make test` begins with it",
    r"make test": "is what runs this test",
    r"make docs": "takes minutes; `make test` ends with it",
    r"make notebook": "serves JupyterLab until it is stopped; test_jupyterlab.py opens it in a browser",
    r".* '?\[--.*": "shows which options there are; commands that use them stand below",
    r"bgdiff data generate chignolin": "takes more than ten seconds however short; other peptides' are made",
    r"bgdiff reference (chignolin|lj38|lj55)": "made short, ladders never see both basins, which is refused",
    r"systems/alanine_dipeptide_(vacuum|obc1)/README\.md:\d+: Python": "openmmtools is no dependency",
}


def words_of(step: Command | Snippet) -> str:
    return str(step) if isinstance(step, Snippet) else shlex.join(step.words)


def rules_for(step: Command | Snippet) -> list[str]:
    """Patterns of the exceptions, if it is one."""
    return [rule for rule in (*ELSEWHERE, *NOT_EXECUTED) if re.fullmatch(rule, words_of(step))]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished_runs")


@pytest.fixture
def reader(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> Reader:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    make_small(monkeypatch)
    return Reader(call, shared)


def stand_in_copy_of(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a copy of a system's folder, without its data, that commands find by the system's name."""
    copy = tmp_path / "systems" / folder.name
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("data"))
    monkeypatch.setenv("BGDIFF_SYSTEMS", str(copy.parent))
    monkeypatch.chdir(copy)
    return copy


def written_below(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(not rules_for(step) for step in steps(page))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_what_a_page_says_can_be_done(
    page: Path, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = written_below(SYSTEMS)
    of_system = page.parent.parent == SYSTEMS
    if of_system:
        copy = stand_in_copy_of(page.parent, tmp_path, monkeypatch)
    for step in steps(page):
        if not rules_for(step):
            reader.do(step)
    if of_system:
        system = load_system(page.parent.name)
        assert system.path.resolve().is_relative_to(copy.resolve())  # the copy, or what the page made in it
        if not any(re.fullmatch(rule, f"bgdiff data generate {system.name}") for rule in NOT_EXECUTED):
            assert len(system.load_data()) > 0
    assert written_below(SYSTEMS) == shipped


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("bgdiff run double_well --presets quick", "No such option"),
        ("bgdiff run double_wall --preset quick", "did you mean 'double_well'"),
        ("bgdiff free-energy runs/mine", "holds no run"),
        ("bgdiff sample", "Missing argument"),
        ("make dmeo", "No rule to make target"),
        ("python -m benchmarks.objectives gmm --dimension 2", "SystemExit: 2"),
        ("python other.py", "no way to run this"),
        ("jupyter lab", "no way to run this"),
    ],
)
def test_what_is_wrong_fails_with_its_place(wrong: str, said: str, reader: Reader) -> None:
    with pytest.raises(pytest.fail.Exception) as failed:
        reader.do(Command("docs/page.md", 12, tuple(wrong.split())))
    place, _, problem = str(failed.value).partition("\n")
    assert place == f"docs/page.md:12: {wrong}"
    assert said in problem


def test_wrong_python_fails_with_its_place(reader: Reader) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"docs/page.md:7: Python\nAttributeError: .*lode_system"):
        reader.do(Snippet("docs/page.md", 7, "import bgdiff\nbgdiff.lode_system('double_well')"))


def test_nothing_is_passed_over() -> None:
    assert [line for page in PAGES for line in unread(page)] == [], "lines of the shell of unknown programs"
    found = {rule for step in STEPS for rule in rules_for(step)}
    assert found == {*ELSEWHERE, *NOT_EXECUTED}, "exceptions that nothing needs"
    for step in STEPS:
        assert len(rules_for(step)) < 2, step
        for test in (ELSEWHERE[rule] for rule in rules_for(step) if rule in ELSEWHERE):
            text = (ROOT / "tests" / test).read_text(encoding="utf-8")
            if isinstance(step, Command) and step.words[1] == "-m":
                assert f'documented_arguments("{step.words[2]}")' in text, step
                source = (
                    (ROOT / step.words[2].replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
                )
                assert 'if __name__ == "__main__":\n    main("' in source, step
            else:  # of the notebooks' folder, or of a page
                assert f'"{Path(step.page).parent.name}"' in text, step


def test_stand_ins_stand_for_something() -> None:
    text = "\n".join(step.code if isinstance(step, Snippet) else words_of(step) for step in STEPS)
    assert [name for name in STAND_INS if not re.search(rf"(?<![\w/]){re.escape(name)}(?![\w-])", text)] == []


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


def test_commands_that_are_not_executed_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of options, how many values they take, which values: as when they are run, up to running them."""
    monkeypatch.chdir(tmp_path)
    left = {step.words for step in STEPS if isinstance(step, Command) and rules_for(step)}
    named = [words for words in left if words[:2] == ("bgdiff", "reference") or "generate" in words]
    assert len(named) == 4
    for words in named:
        found, rest = leaf(list(words[1:]))
        found.make_context(found.name, list(rest))
        assert load_system(rest[0]).differences


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
    for words in [*(c.words for c in COMMANDS if c.words[0] == "make"), *(tuple(t.split()) for t in inline)]:
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
