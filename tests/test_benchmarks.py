"""Benchmarks run in their reduced form and write what docs/benchmarks.md is made from."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_main_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import harness, main_job

    file = tmp_path / "main_job.json"
    monkeypatch.setattr(
        sys, "argv", ["main_job", "--quick", "--json", str(file), "--keep", str(tmp_path / "runs")]
    )
    (tmp_path / "runs").mkdir()
    harness.main("main_job", main_job.measure, "")
    content = json.loads(file.read_text())
    assert content["name"] == "main_job"
    assert content["environment"]["threads"] >= 1
    assert [row["objective"] for row in content["rows"]] == ["score and DiffCLF", "score alone"]
    assert all(row["std error"] > 0 and row["ESS"] > 0 for row in content["rows"])
    # both saw the same frames
    assert content["rows"][0]["dF of training frames"] == content["rows"][1]["dF of training frames"]
