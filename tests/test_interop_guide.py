"""docs/interop.md: its examples run as printed, with fewer samples and steps."""

import re
from pathlib import Path
from typing import Any

import pytest
from bgflow_package import bgflow_fixture  # noqa: F401 (a fixture)
from test_interop_proposals import DIFFERENCE, LOG_Z

from bgdiff.generator import Ensemble

GUIDE = Path(__file__).parent.parent / "docs" / "interop.md"


def run(section: str, names: dict[str, Any]) -> dict[str, Any]:
    """The examples below a heading, one after the other."""
    text = GUIDE.read_text(encoding="utf-8")
    (part,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    examples = re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL)
    assert examples
    for example in examples:
        short = example.replace("10_000", "2_000").replace("2_000)", "1_000)").replace("1000", "25")
        exec(compile(short, f"{GUIDE.name}: {section}", "exec"), names)
    return names


def assert_right(ensemble: Ensemble) -> None:
    assert abs(ensemble.log_z.z_score(LOG_Z)) < 4
    assert abs(ensemble.free_energy_difference("wells").z_score(DIFFERENCE)) < 4


def test_any_density() -> None:
    names = run("Any density", {})
    assert_right(names["ensemble"])
    assert_right(names["annealed"].ensemble)


def test_zuko() -> None:
    zuko = pytest.importorskip("zuko")
    names = run("zuko", {})
    assert_right(names["ensemble"])
    assert isinstance(names["fitted"].proposal.flow, zuko.flows.MAF)


def test_bgflow(bgflow: Any) -> None:
    assert_right(run("bgflow", {})["ensemble"])


def test_every_name_of_the_tables_exists() -> None:
    from bgdiff.interop import bgflow, proposal_annealing, proposal_checks, proposals

    text = GUIDE.read_text(encoding="utf-8")
    called = set(re.findall(r"^\|.*?`(\w+)\(", text, flags=re.MULTILINE))
    known = {
        name for module in (bgflow, proposal_annealing, proposal_checks, proposals) for name in dir(module)
    }
    assert len(called) > 8
    assert called <= known
