"""JupyterLab in a headless Chromium shows the conformations of notebook 5: the widget's canvas is not blank.

Asks for more than the tests' own environment has: ``pip install -e '.[notebooks]' playwright``, and Chromium,
found as ``chromium`` or ``google-chrome`` or named by the environment variable CHROMIUM.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from test_notebooks import EXECUTE, NOTEBOOKS

from bgdiff.run_ensemble import finished_run

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MISSING = [name for name in ("jupyterlab", "nglview", "playwright") if find_spec(name) is None]
TOKEN = "only-this-test"

_LEAST = 0.002  # of a canvas; atoms in colours of basins fill about 0.01, frames and icons are grey

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
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
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        try:
            page.set_default_timeout(240_000)
            page.goto(lab)
            # cells that are run before the kernel has answered are forgotten
            page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").first.wait_for()
            page.locator(".lm-MenuBar-item:has-text('Run')").click()
            page.locator(".lm-Menu-item[data-command='runmenu:run-all']").click()
            found = _look(page, tmp_path)
        finally:
            page.screenshot(path=tmp_path / "page.png")
            browser.close()
    assert _coloured(found) > _LEAST, "the widget is blank"


def _look(page: Any, folder: Path) -> np.ndarray:
    """Pixels of the widget of the first view by basin, once it has drawn; screenshots stay in ``folder``."""
    cell = page.locator(".jp-Notebook-cell:has-text('by=\"basin\"')").first
    picture = cell.locator("img")
    picture.wait_for()
    assert picture.evaluate("image => image.complete && image.naturalWidth > 300")
    canvas = cell.locator("canvas").first
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    pixels = np.zeros((1, 1, 4))
    for attempt in range(30):  # it is drawn some time after it is there
        shot = canvas.screenshot(path=folder / "canvas.png")
        pixels = image.imread(io.BytesIO(shot), format="png")
        if _coloured(pixels) > _LEAST:
            break
        page.wait_for_timeout(500 + 100 * attempt)
    return np.asarray(pixels)


def _coloured(pixels: np.ndarray) -> float:
    return float((np.ptp(pixels[..., :3], axis=2) > 0.25).mean())
