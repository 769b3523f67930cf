"""``bgdiff info``: facts about the installation, a benchmark that measures, and how both are shown."""

import io
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import openmm
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import bgdiff
from bgdiff import info as info_module
from bgdiff.cli import app
from bgdiff.console import info_view, rounded
from bgdiff.environment import PACKAGES, available_cores, package_versions, processor_name
from bgdiff.info import collect_info
from bgdiff.targets.forcefield import kernel

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def found():
    return collect_info(0.2)


def show(info, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(info_view(info))
    return console.file.getvalue()


def test_facts_are_those_of_the_packages_themselves(found):
    assert found["bgdiff"] == bgdiff.__version__
    assert found["versions"]["torch"] == version("torch")
    assert set(found["versions"]) == {"python", *PACKAGES}
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["openmm_platforms"][0] == openmm.Platform.getPlatform(0).getName()
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["devices"][0] == "cpu"
    assert json.loads(json.dumps(found)) == found


def test_the_benchmark_measures_all_evaluators(found):
    rates = found["benchmark"]["rates"]
    assert [rate["name"] for rate in rates] == ["engine, float64", "engine, float32", "OpenMM, Reference"]
    assert all(rate["per_second"] > 100 for rate in rates)
    assert rates[-1]["ratio"] == 1
    for rate in rates:
        assert rate["ratio"] == pytest.approx(rate["per_second"] / rates[-1]["per_second"])
    assert found["benchmark"]["atoms"] == 22


def test_without_a_benchmark():
    info = collect_info(0)
    assert "benchmark" not in info
    assert "per second" not in show(info)


def test_the_view_has_it_all(found):
    text = show(found)
    assert text.startswith(f"bgdiff {bgdiff.__version__}")
    for expected in (
        found["engine"]["description"],
        f"torch {version('torch')}",
        f"{openmm.__version__}: Reference",
        "alanine_dipeptide_vacuum",
        "OpenMM, Reference",
        "1.00 ×",
    ):
        assert expected in text
    narrow = show(found, width=50)
    assert max(map(len, narrow.splitlines())) <= 50


def test_a_missing_kernel_is_told_with_the_reason(monkeypatch):
    status = kernel.KernelStatus(None, "no [working] compiler; install one", ())
    monkeypatch.setattr(kernel, "kernel_status", lambda: status)
    info = collect_info(0)
    assert info["engine"]["compiled"] is False
    text = show(info)
    assert "torch: there is no compiled kernel" in text
    assert "no [working] compiler; install one" in text


def test_every_variant_has_words(monkeypatch):
    from bgdiff.targets.forcefield.build import VARIANTS

    for variant in VARIANTS:
        monkeypatch.setattr(kernel, "kernel_status", lambda v=variant: kernel.KernelStatus(v, None, (v,)))
        assert variant in collect_info(0)["engine"]["description"]


@pytest.mark.parametrize(("value", "expected"), [(1_234_567.0, 1_230_000), (26_449.0, 26_400), (5.5, 6)])
def test_counts_are_shown_with_three_digits(value, expected):
    assert rounded(value) == expected


class TestCommand:
    def test_json(self):
        outcome = CliRunner().invoke(app, ["info", "--json", "--benchmark", "0"])
        assert outcome.exit_code == 0, outcome.output
        content = json.loads(outcome.output)
        assert content["versions"]["openmm"] == version("openmm")
        assert "benchmark" not in content

    def test_table(self, monkeypatch, found):
        asked = []
        monkeypatch.setattr(info_module, "collect_info", lambda seconds: asked.append(seconds) or found)
        outcome = CliRunner().invoke(app, ["info"])
        assert outcome.exit_code == 0, outcome.output
        assert asked == [2.0]
        assert "engine, float32" in outcome.output

    def test_senseless_time_is_refused(self):
        assert CliRunner().invoke(app, ["info", "--benchmark", "-1"]).exit_code == 2


def test_versions_cost_no_import():
    code = (
        "import sys, bgdiff.environment as e; e.package_versions(); e.processor_name(); "
        "print({'torch', 'numpy', 'openmm'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_missing_packages_are_left_out(monkeypatch):
    monkeypatch.setattr("bgdiff.environment.PACKAGES", ("torch", "no-such-package"))
    assert set(package_versions()) == {"python", "torch"}
    assert processor_name()
    assert available_cores() >= 1
