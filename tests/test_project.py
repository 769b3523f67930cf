"""The project's own files agree with each other: dependencies, versions, packaging, links, layout."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bgdiff
from bgdiff import system_spec

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted(path for path in (ROOT / "bgdiff").rglob("*.py"))

# PyPI name -> conda-forge name, where they differ.
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "build": "python-build"}
# Only conda needs to be told about these.
CONDA_ONLY = {"python", "pip", "git", "cxx-compiler"}


def declared() -> dict[str, Requirement]:
    """Every dependency of pyproject.toml, extras included, by canonical name."""
    project = PYPROJECT["project"]
    texts = [*project["dependencies"], *(t for e in project["optional-dependencies"].values() for t in e)]
    return {canonicalize_name(r.name): r for r in map(Requirement, texts)}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def environment() -> tuple[dict[str, Requirement], list[str]]:
    """Conda dependencies by name, and what pip installs."""
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [Requirement(item) for item in content["dependencies"] if isinstance(item, str)]
    pip = [item for entry in content["dependencies"] if isinstance(entry, dict) for item in entry["pip"]]
    return {requirement.name: requirement for requirement in conda}, pip


class TestDependencies:
    def test_environment_has_the_dependencies_of_pyproject_with_the_same_bounds(self) -> None:
        conda, _ = environment()
        expected = {CONDA_NAMES.get(name, name): r.specifier for name, r in declared().items()}
        found = {name: r.specifier for name, r in conda.items() if name not in CONDA_ONLY}
        assert found == expected

    def test_environment_has_the_same_python(self) -> None:
        conda, _ = environment()
        assert str(conda["python"].specifier) == PYPROJECT["project"]["requires-python"]

    def test_environment_takes_bgflow_from_its_repository(self) -> None:
        _, pip = environment()
        assert pip == ["git+https://github.com/noegroup/bgflow"]

    def test_ranges_are_open(self) -> None:
        for name, requirement in declared().items():
            operators = [specifier.operator for specifier in requirement.specifier]
            assert operators == [">="], f"{name}: a lower bound and nothing else"

    def test_constraints_pin_every_dependency_within_its_bounds(self) -> None:
        pins = pinned()
        for name, requirement in declared().items():
            assert name in pins, f"constraints.txt does not pin {name}"
            assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} is out of bounds"

    def test_linter_targets_the_oldest_python(self) -> None:
        oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
        assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest
        assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")


class TestVersion:
    def test_citation(self) -> None:
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
        assert citation["version"] == bgdiff.__version__
        assert citation["license"] == PYPROJECT["project"]["license"] == "MIT"
        for field in ("cff-version", "message", "title", "authors"):
            assert citation[field]

    def test_changelog_tells_of_it(self) -> None:
        changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        headings = re.findall(r"^## \[(.+?)\]", changelog, flags=re.MULTILINE)
        assert headings[0] == "Unreleased"
        assert len(headings) == 1 or headings[1] == bgdiff.__version__


class TestCommands:
    def test_readme_commands_exist(self) -> None:
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        used = set(re.findall(r"(?:^|`)make ([a-z]+)", readme, flags=re.MULTILINE))
        assert {"demo", "test"} <= used
        assert used <= set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))

    def test_ci_runs_the_test_command(self) -> None:
        script = ROOT / ".ci" / "run"
        assert os.access(script, os.X_OK)
        assert script.read_text(encoding="utf-8").rstrip().endswith("\nmake test")

    @pytest.mark.parametrize(
        ("has", "user", "said"),
        [
            (("apt-get", "chromium"), "0", ["make test"]),
            (("apt-get",), "0", ["apt-get -qq update", "apt-get -qq install", "make test"]),
            (("broken apt-get",), "0", ["apt-get -qq update", "no Chromium here", "make test"]),
            (("apt-get",), "1000", ["no Chromium here", "make test"]),
            ((), "0", ["no Chromium here", "make test"]),
        ],
    )
    def test_ci_gets_a_browser_where_it_can(
        self, has: tuple[str, ...], user: str, said: list[str], tmp_path: Path
    ) -> None:
        """With programs that only say what they were asked; without a browser the tests run all the same."""
        programs = tmp_path / "bin"
        programs.mkdir()
        installed = f'case "$*" in *install*) cp {programs}/make {programs}/chromium ;; esac'
        texts = {"make": "", "id": f"echo {user}", "timeout": 'shift; exec "$@"', "chromium": ""}
        texts |= {"apt-get": installed, "broken apt-get": "exit 100"}
        for name in {"make", "id", "timeout", *has}:
            log = "" if name in ("id", "timeout") else f'echo "${{0##*/}} $*" >> {tmp_path}/said\n'
            program = programs / name.removeprefix("broken ")
            program.write_text(f"#!/bin/sh\n{log}{texts[name]}\n")
            program.chmod(0o755)
        for name in ("dirname", "cp", "sh"):
            (programs / name).symlink_to(shutil.which(name) or name)
        (tmp_path / ".ci").mkdir()
        shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
        command = [shutil.which("bash") or "bash", str(tmp_path / ".ci" / "run")]
        done = subprocess.run(
            command, env={"PATH": str(programs)}, capture_output=True, text=True, check=True
        )  # fmt: skip
        lines = (tmp_path / "said").read_text().splitlines()
        if "no Chromium here" in done.stderr:
            lines.insert(-1, "no Chromium here")
        assert [line[: len(start)] for line, start in zip(lines, said, strict=True)] == said

    def test_old_python_is_refused_clearly(self, tmp_path: Path) -> None:
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, tmp_path)
        old = tmp_path / "old-python"
        old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1 && exit 0\nexit 1\n')
        old.chmod(0o755)
        command = ["make", "test", f"PYTHON={old}"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode != 0
        assert "needs Python 3.11 or newer" in result.stderr
        assert "Python 3.8.1" in result.stderr
        assert not (tmp_path / ".venv").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return wheel


class TestPackage:
    def test_wheel_holds_the_package_and_the_systems(self, wheel: Path) -> None:
        names = set(zipfile.ZipFile(wheel).namelist())
        sources = [path for path in (ROOT / "bgdiff").rglob("*") if path.suffix != ".pyc" and path.is_file()]
        expected = {path.relative_to(ROOT).as_posix() for path in sources}
        assert {"bgdiff/py.typed", "bgdiff/cli.py"} <= expected
        for definition in (ROOT / "systems").glob("*/system.yaml"):
            expected.add(f"bgdiff/_systems/{definition.parent.name}/system.yaml")
        assert expected <= names
        strangers = {name.split("/")[0] for name in names} - {"bgdiff"}
        assert strangers == {f"bgdiff-{bgdiff.__version__}.dist-info"}

    def test_wheel_can_be_uploaded(self, wheel: Path) -> None:
        """PyPI takes files of up to 100 MiB, and the source distribution is 2 MiB larger than the wheel."""
        assert wheel.stat().st_size < 98 * 2**20

    def test_installed_wheel_finds_its_systems_and_its_kernel(self, wheel: Path, tmp_path: Path) -> None:
        zipfile.ZipFile(wheel).extractall(tmp_path / "site")
        script = (
            "import bgdiff; print(bgdiff.__file__); print(*bgdiff.list_systems())\n"
            "from bgdiff.targets.forcefield import kernel_status; print(kernel_status())"
        )
        variables = {key: value for key, value in os.environ.items() if key != "BGDIFF_SYSTEMS"}
        result = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**variables, "PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
            check=True,
        )
        file, systems, kernel = result.stdout.splitlines()
        assert Path(file).is_relative_to(tmp_path)
        assert systems.split() == sorted(p.parent.name for p in (ROOT / "systems").glob("*/system.yaml"))
        assert kernel.startswith("torch" if wheel.name.endswith("-none-any.whl") else "kernel"), kernel


class TestDocuments:
    def test_they_link_to_what_exists(self) -> None:
        for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
            for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
                if "://" not in target:
                    assert (document.parent / target).exists(), f"{document.name} links to {target}"

    def test_example_is_python_and_uses_what_is_exported(self) -> None:
        for example in code_blocks(ROOT / "docs" / "runs.md", "python"):
            for node in ast.walk(ast.parse(example)):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "bgdiff":
                    assert node.attr in dir(bgdiff)

    def test_guide_to_own_systems_makes_a_system(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its code and its system.yaml, as printed, give a system that computes energies and forces."""
        guide = ROOT / "docs" / "your-own-system.md"
        shutil.copy(ROOT / "systems" / "alanine_dipeptide_vacuum" / "topology.pdb", tmp_path / "input.pdb")
        monkeypatch.chdir(tmp_path)
        (code,) = code_blocks(guide, "python")
        exec(code, {})
        definition = code_blocks(guide, "yaml")[0]
        (tmp_path / "system.yaml").write_text(definition, encoding="utf-8")
        system = bgdiff.load_system(tmp_path)
        energy, force = system.target.energy_and_force(torch.from_numpy(system.structure)[None])
        assert torch.isfinite(energy).all()
        assert torch.isfinite(force).all()
        assert set(system.observables(system.structure[None])) == {"phi", "psi"}

    def test_own_cluster(self, tmp_path: Path) -> None:
        _, definition = code_blocks(ROOT / "docs" / "your-own-system.md", "yaml")
        (tmp_path / "system.yaml").write_text(definition, encoding="utf-8")
        system = bgdiff.load_system(tmp_path)
        generator = torch.Generator().manual_seed(1)
        size = torch.linspace(0.2, 2.0, 200, dtype=torch.float64)[:, None, None]
        x = size * torch.randn(200, *system.target.event_shape, generator=generator, dtype=torch.float64)
        observables = system.observables(x)
        basins = [system.basin(name, observables) for name in system.spec.basins]
        assert torch.isfinite(system.target.energy(x)).all()
        assert all(basin.any() for basin in basins)

    def test_guide_names_every_field(self) -> None:
        guide = (ROOT / "docs" / "your-own-system.md").read_text(encoding="utf-8")
        models = (
            "OpenMMSpec",
            "ManyWellSpec",
            "LennardJonesSpec",
            "LennardJonesParameters",
            "MultiDoubleWellSpec",
            "MDSpec",
            "ChainsSpec",
            "ToyLaddersSpec",
            "ReplicaExchangeSpec",
        )
        fields = {field for model in models for field in getattr(system_spec, model).model_fields}
        assert sorted(field for field in fields if f"`{field}`" not in guide) == []


def code_blocks(document: Path, language: str) -> list[str]:
    pattern = rf"```{language}\n(.*?)```"
    found = re.findall(pattern, document.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found, f"{document.name} has no {language} example"
    return found


class TestSources:
    @pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
    def test_module_is_short_documented_and_says_what_it_exports(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") < 400
        tree = ast.parse(text)
        if not tree.body:  # an empty __init__.py
            return
        assert ast.get_docstring(tree)
        exported = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        defines = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body)
        assert exported or not defines, "no __all__"
