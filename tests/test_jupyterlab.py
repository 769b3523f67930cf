"""JupyterLab in a headless Chromium shows the conformations of notebook 5: the widget's canvas is not blank.

Asks for the packages of ``pip install -e '.[notebooks]'``, which ``make test`` installs, and for a
Chromium, or the environment variable CHROMIUM with the path of one.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from browser import NO_CHROMIUM, Browser, chromium, open_page
from matplotlib import image
from test_notebooks import EXECUTE, NOTEBOOKS

from bgdiff.run_ensemble import finished_run

EXECUTABLE = chromium()
MISSING = [name for name in ("jupyterlab", "nglview") if find_spec(name) is None]
TOKEN = "only-this-test"

_LEAST = 0.002  # of a canvas; atoms in colours of basins fill about 0.01, frames and icons are grey

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: pip install -e '.[notebooks]'"),
    pytest.mark.skipif(EXECUTABLE is None, reason=NO_CHROMIUM),
]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Address of notebook 5, in its reduced form, in a JupyterLab of its own."""
    (path,) = (path for path in NOTEBOOKS if path.name.startswith("05"))
    content = EXECUTE.notebook(path, quick=True)
    quick = content["metadata"]["bgdiff"]["quick"]
    finished_run(
        "alanine_dipeptide_vacuum", tmp_path / quick["RUN"], preset="quick", overrides=quick["SETTINGS"]
    )
    (tmp_path / path.name).write_text(json.dumps(content), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
        f"--ServerApp.root_dir={tmp_path}", f"--IdentityProvider.token={TOKEN}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    home = tmp_path / "home"
    settings = {"JUPYTER_CONFIG_DIR": home, "JUPYTER_DATA_DIR": home, "JUPYTER_RUNTIME_DIR": home}
    settings["JUPYTERLAB_SETTINGS_DIR"] = home
    tracker = home / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')  # all cells are there, also those off the screen
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    with (tmp_path / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/api?token={TOKEN}", server, tmp_path / "lab.log")
        yield f"http://127.0.0.1:{port}/lab/tree/{path.name}?token={TOKEN}"
    finally:
        server.terminate()
        server.wait(30)


def _wait(address: str, server: "subprocess.Popen[bytes]", log: Path, patience: float = 120.0) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"JupyterLab does not answer: {log.read_text()}")


def test_notebook_shows_widgets_and_pictures(lab: str, tmp_path: Path) -> None:
    with open_page(EXECUTABLE or "", tmp_path / "profile", patience=240) as page:
        try:
            page.load(lab, width=1300, height=1000)
            # cells that are run before there is a kernel ask which one to take
            page.wait(f"{_KERNEL}?.status === 'idle'")
            page.run("void jupyterapp.commands.execute('runmenu:run-all')")
            page.wait(_NAME_THE_CELL)
            page.wait(
                "(image => image !== null && image.complete && image.naturalWidth > 300)"
                "(document.querySelector('#by-basin img'))"
            )
            page.wait("document.querySelector('#by-basin canvas') !== null")
            found = _drawn(page, tmp_path)
        finally:
            (tmp_path / "page.png").write_bytes(page.screenshot("#jp-main-dock-panel"))
    assert _coloured(found) > _LEAST, "the widget is blank"


_KERNEL = "globalThis.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
_NAME_THE_CELL = """
(() => {
    const cells = [...document.querySelectorAll('.jp-Notebook-cell')];
    const cell = cells.find(one => one.textContent.includes('by="basin"'));
    if (cell) cell.id = 'by-basin';
    return cell !== undefined;
})()
"""


def _drawn(page: Browser, folder: Path) -> np.ndarray:
    """Pixels of the widget of the first view by basin, once it has drawn; they stay in ``folder``."""
    pixels = np.zeros((1, 1, 3))
    for attempt in range(30):  # it is drawn some time after it is there, and cells above may still grow
        page.run("document.querySelector('#by-basin canvas').scrollIntoView({block: 'center'})")
        page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        pixels = page.pixels("#by-basin canvas")
        if _coloured(pixels) > _LEAST:
            break
        time.sleep(0.5 + 0.1 * attempt)
    image.imsave(folder / "canvas.png", pixels)
    return pixels


def _coloured(pixels: np.ndarray) -> float:
    return float((np.ptp(pixels, axis=2) > 0.25).mean())
