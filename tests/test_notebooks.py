"""Every notebook runs in its reduced form, shows what it says, and is committed without outputs."""

import ast
import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from bgdiff.analysis.view import View

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXECUTE = _module()
NOTEBOOKS: list[Path] = EXECUTE.NOTEBOOKS
# those of a story share a run, as they do for a reader, and stay in one process
STORIES = (("01",), ("02", "03", "04", "05", "08"), ("06",), ("07",))
FIGURES = {"01": 3, "02": 3, "03": 2, "04": 3, "05": 1, "06": 1, "07": 3, "08": 2}
VIEWS = {"05": 7, "06": 1, "07": 3}


def run(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """Names that a notebook in its reduced form leaves behind, and what its cells display."""
    names: dict[str, Any] = {}
    shown = []
    for number, cell in enumerate(EXECUTE.notebook(path, quick=True)["cells"]):
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(line for line in cell["source"] if not line.startswith("%")))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        where = f"{path.name}, cell {number}"
        exec(compile(tree, where, "exec"), names)
        if last is not None:
            assert isinstance(last, ast.Expr)
            shown.append(eval(compile(ast.Expression(last.value), where, "eval"), names))
    return names, [one for one in shown if one is not None]


def assert_drawn(figure: Figure) -> None:
    """Not one colour all over."""
    with io.BytesIO() as file:
        figure.savefig(file, format="rgba", dpi=40)
        pixels = np.frombuffer(file.getvalue(), dtype=np.uint8)
    assert pixels.reshape(-1, 4).std(0).max() > 5


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES, ids="-".join)
def test_notebooks_run(
    story: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in story:
        if number == "08":
            pytest.importorskip("zuko")
        (path,) = (path for path in NOTEBOOKS if path.name.startswith(number))
        names, shown = run(path)
        figures = [one for one in shown if isinstance(one, Figure)]
        assert len(figures) >= FIGURES[number], path.name
        for figure in figures:
            assert_drawn(figure)
        views = [one for one in shown if isinstance(one, View)]
        assert len(views) == VIEWS.get(number, 0)
        assert all(len(view) > 0 and view.caption for view in views)
        if number == "01":  # the one whose reduced form is long enough to be right
            estimate = names["estimate"]
            assert abs(estimate.value - names["exact"]) < 4 * estimate.std_error < 1.0
            assert "effective sample size" in capsys.readouterr().out
        elif number == "02":  # conformations belong to the energies beside them
            ensemble = names["ensemble"]
            energy = names["system"].target.energy(torch.from_numpy(ensemble.x[:50])).numpy()
            assert np.median(np.abs(energy - ensemble.energy[:50])) < 0.05
        elif number == "08":  # neither is trained to speak of, both are corrected to one target
            assert abs(names["gaussian"].free_energy_difference("wells").z_score(2.629384)) < 4


def test_every_notebook_belongs_to_a_story() -> None:
    assert sorted(number for story in STORIES for number in story) == [path.name[:2] for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean_and_leads_on(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    assert text == json.dumps(content, indent=1, ensure_ascii=False) + "\n"  # as Jupyter would write it
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            assert cell["execution_count"] is None
    words = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "markdown"]
    assert words[0].startswith(f"# {int(path.name[:2])} · ")
    assert "## Next\n" in words[-1]
    for name in content["metadata"]["bgdiff"]["quick"]:
        (parameters,) = (c for c in content["cells"] if "parameters" in c["metadata"].get("tags", []))
        assert any(line.startswith(name) or f", {name}" in line for line in parameters["source"]), name


def test_notebooks_that_share_a_run_make_it_with_the_same_settings() -> None:
    """So that each can be opened first, and those opened later find it."""
    made = set()
    for path in NOTEBOOKS:
        content = json.loads(path.read_text(encoding="utf-8"))
        quick = content["metadata"]["bgdiff"]["quick"]
        source = "\n".join(
            "".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"
        )
        for line in source.splitlines():
            if 'finished_run("alanine_dipeptide_vacuum"' in line:
                assert 'RUN = "runs/alanine"' in source
                made.add((line, json.dumps([quick["RUN"], quick["SETTINGS"]], sort_keys=True)))
    assert len(made) == 1
