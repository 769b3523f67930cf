"""The report in a browser: it loads without a network or an error, figures show, and the viewer draws."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import NO_CHROMIUM, Browser, chromium, open_page

EXECUTABLE = chromium()
pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason=NO_CHROMIUM)


@pytest.fixture(scope="module")
def page(molecule_report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_page(EXECUTABLE or "", tmp_path_factory.mktemp("profile")) as browser:
        browser.load(molecule_report)
        yield browser


def test_figures_are_there_and_nothing_comes_from_elsewhere(page: Browser, molecule_report: Path) -> None:
    page.run("Promise.all([...document.images].map(image => image.decode()))")
    sizes = page.run("[...document.images].map(image => [image.naturalWidth, image.naturalHeight])")
    assert len(sizes) == len(list((molecule_report.parent / "figures").glob("*.png")))
    assert all(width > 300 and height > 100 for width, height in sizes)
    assert page.requests == []
    assert page.errors == []


def test_it_opens_in_two_seconds(page: Browser, molecule_report: Path) -> None:
    """The fastest of three times, as another test may keep both cores busy."""
    assert min(page.load(molecule_report) for _ in range(3)) < 2.0


def test_nothing_sticks_out_of_a_phone(page: Browser, molecule_report: Path) -> None:
    page.load(molecule_report, width=390, height=844)
    assert page.run("document.documentElement.scrollWidth") == 390
    page.load(molecule_report)


def test_viewer_draws_plays_and_colours(page: Browser) -> None:
    pytest.importorskip("nglview")
    page.run("document.getElementById('viewer').scrollIntoView({behavior: 'instant', block: 'center'})")
    state = page.wait("document.getElementById('viewer').dataset.state")
    assert state == "drawn", page.run("document.getElementById('viewer-note').textContent")

    def picture(ready: str = "true") -> np.ndarray:
        """Of the canvas, two frames after the page is ready."""
        page.wait(ready)
        page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return page.pixels("#viewer canvas")

    first = picture()
    drawn = (first < 0.9).any(axis=2)
    assert 0.01 < drawn.mean() < 0.6
    page.run("document.querySelector('[data-part=frame]').value = 2")
    page.run("document.querySelector('[data-part=frame]').oninput()")
    second = picture("document.querySelector('[data-part=caption]').textContent.startsWith('2 of 40')")
    assert (np.abs(second - first).max(axis=2) > 0.2).mean() > 0.001
    page.run("document.querySelector('[data-part=colour]').value = 1")
    page.run("document.querySelector('[data-part=colour]').onchange()")
    page.run("document.querySelector('[data-part=together]').click()")
    third = picture("document.querySelectorAll('[data-part=legend] li').length > 0")
    blue = (third[..., 2] > third[..., 0] + 0.2) & (third[..., 2] > 0.3)  # the colour of the first basin
    assert blue.mean() > 0.003
    assert page.errors == []
    assert page.requests == []
