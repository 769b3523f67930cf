"""docs/composition.md: its examples run as printed, with fewer samples, rungs and steps."""

import json
import math
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from compositions import exact_product, first, second
from documents import documented_arguments

from bgdiff import models

GUIDE = Path(__file__).parent.parent / "docs" / "composition.md"
QUICK = """preset="quick", overrides={
    "training": {"steps": 80, "learning_rate": 3e-3},
    "network": {"width": 32, "depth": 2},
    "ladder": {"n_rungs": 30, "moment_samples": 500, "pilot_samples": 200},
}"""


@cache
def examples() -> list[str]:
    text = GUIDE.read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(found) == 3
    return [
        block.replace("4000, ", "1000, n_rungs=10, pilot=100, ")
        .replace("sample(4000)", "sample(1000)")
        .replace('preset="quick"', QUICK)
        for block in found
    ]


def run(number: int, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(examples()[number], f"{GUIDE.name}: example {number}", "exec"), names)
    return names


def exact(beta: float, stiffness: float = 0.0) -> float:
    """log Z of the double well x - 4 x² + x⁴ + ½ y² at another temperature, with k x² added."""
    x = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    u = beta * (x - 4 * x**2 + x**4) + stiffness * x**2
    return float(torch.logsumexp(-u, 0) + (x[1] - x[0]).log()) + 0.5 * math.log(2 * math.pi / beta)


def test_the_product() -> None:
    names = run(0, {})
    assert torch.equal(names["left"].means, first().means)
    squared, log_square = exact_product(first(), first())
    _, log_z = exact_product(squared, second())
    assert abs(names["samples"].log_z.z_score(log_square + log_z)) < 4
    assert names["points"].shape == (1000, 2)


def test_a_trained_generator() -> None:
    """Another temperature, a restraint, and a mixture with itself, which is itself."""
    names = run(1, {})
    assert abs(names["warm"].log_z.z_score(exact(0.5))) < 4
    assert abs(names["held"].log_z.z_score(exact(1.0, 10.0))) < 4
    assert names["x"].shape == (1000, 1, 2)
    names |= {"one": names["generator"], "two": names["generator"]}
    names = run(2, names)
    found, given = names["samples"].log_z, names["log_z"][0]
    assert abs(found.value) < 4 * math.hypot(found.std_error, given.std_error)


def test_names_of_the_table_exist() -> None:
    called = re.findall(r"^\| `(\w+)\(", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert called == ["product", "tempered", "mixture", "negated"]
    assert all(hasattr(models, name) for name in called)


@pytest.mark.slow
def test_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reduced form of what the figure is made of, with a figure."""
    monkeypatch.syspath_prepend(str(GUIDE.parent.parent))
    from benchmarks import composition, harness

    tempering = composition.cases()[2]
    monkeypatch.setattr(composition, "cases", lambda: [tempering])
    monkeypatch.chdir(tmp_path)
    file, figure = Path("composition.json"), Path("composition.png")
    monkeypatch.setattr(sys, "argv", [*documented_arguments("benchmarks.composition"), "--quick"])
    harness.main("composition", composition.measure, "", composition.tables, composition.draw)
    added, weighted = json.loads(file.read_text())["rows"]
    assert weighted["largest |z|"] < 4
    assert weighted["W2"] < 0.5 * added["W2"]
    assert figure.stat().st_size > 10_000
