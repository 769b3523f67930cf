"""Every notebook runs from top to bottom, and is committed without outputs."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    namespace: dict[str, Any] = {}
    for cell in cells[:-1]:
        exec(compile("".join(cell["source"]), path.name, "exec"), namespace)
    figure = eval(compile("".join(cells[-1]["source"]), path.name, "eval"), namespace)
    assert isinstance(figure, Figure)
    estimate, exact = namespace["estimate"], namespace["exact"]
    assert abs(estimate.value - exact) < 4 * estimate.std_error < 0.5
    assert "effective sample size" in capsys.readouterr().out
