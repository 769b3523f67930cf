"""Execute the notebooks outside of Jupyter: ``python notebooks/execute.py [--quick] [--out DIR] [NAME ...]``.

Writes executed copies as HTML and .ipynb to DIR (``runs/notebooks`` here); the notebooks themselves stay
without outputs. ``--quick`` is the reduced form that the tests run: a few training steps, results without a
meaning.

A notebook's cell with the tag ``parameters`` holds what its length depends on, and ``bgdiff.quick`` in its
metadata the values of the reduced form, which are assigned after that cell, as papermill would do it.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

__all__ = ["NOTEBOOKS", "execute", "notebook"]

HERE = Path(__file__).resolve().parent
NOTEBOOKS = sorted(HERE.glob("[0-9]*.ipynb"))


def notebook(path: Path, *, quick: bool = False) -> dict[str, Any]:
    """Content of a notebook; in the reduced form its parameters are set anew after their cell."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if quick:
        values = content["metadata"]["bgdiff"]["quick"]
        (place,) = (
            k for k, cell in enumerate(content["cells"]) if "parameters" in cell["metadata"].get("tags", [])
        )
        cell = {
            "cell_type": "code",
            "execution_count": None,
            "id": "reduced-form",
            "metadata": {},
            "outputs": [],
            "source": "".join(f"{name} = {value!r}\n" for name, value in values.items()),
        }
        content["cells"].insert(place + 1, cell)
    return content


def execute(path: Path, out: Path, *, quick: bool = False) -> float:
    """Execute a notebook in a kernel of its own, in ``out``; return the seconds it took.

    Notebooks executed in one folder share the runs they make in it.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    out.mkdir(parents=True, exist_ok=True)
    content = nbformat.reads(json.dumps(notebook(path, quick=quick)), as_version=4)
    started = time.monotonic()
    NotebookClient(content, timeout=3600, resources={"metadata": {"path": str(out)}}).execute()
    taken = time.monotonic() - started
    nbformat.write(content, out / path.name)
    html, _ = HTMLExporter().from_notebook_node(content)
    (out / path.with_suffix(".html").name).write_text(html, encoding="utf-8")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 02; default: all")
    parser.add_argument("--quick", action="store_true", help="the reduced form")
    parser.add_argument("--out", type=Path, default=HERE / "runs" / "notebooks")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as `make notebook` does, and for its reason
    for path in NOTEBOOKS:
        if not options.names or any(path.name.startswith(name) for name in options.names):
            print(f"{path.name} ...", flush=True)
            print(f"  {execute(path, options.out, quick=options.quick):.0f} s", flush=True)


if __name__ == "__main__":
    main()
