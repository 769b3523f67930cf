"""A headless Chromium, driven over its DevTools pipe: no driver and no package besides the browser.

``python tests/browser.py PAGE`` prints how many seconds a page takes to open, five times.
"""

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["NO_CHROMIUM", "Browser", "chromium", "open_page"]

NO_CHROMIUM = "there is no Chromium: install one (Debian: apt-get install chromium), or set $CHROMIUM to it"
"""Why a test is skipped."""

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe",
)  # fmt: skip


def chromium() -> str | None:
    """Path of an installed Chromium, $CHROMIUM or one in the search path."""
    candidates = (os.environ.get("CHROMIUM", ""), *_NAMES)
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


class Browser:
    """One page of a browser. What it asks of the network, and what goes wrong in it, is gathered.

    Attributes:
        requests: addresses, but for those that need no network: files, data and blobs.
        errors: errors of the console, uncaught exceptions, and violations of the page's security policy.
    """

    def __init__(self, to_browser: int, from_browser: int, patience: float) -> None:
        self._out, self._in, self._patience = to_browser, from_browser, patience
        self._number, self._rest = 0, b""
        self._events: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def load(self, page: Path | str, *, width: int = 1280, height: int = 900) -> float:
        """Open a file or an address in a window of that many pixels; seconds until everything is loaded."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self._events.clear()
        started = time.monotonic()
        self._call("Page.navigate", url=page.resolve().as_uri() if isinstance(page, Path) else page)
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._receive()
        return time.monotonic() - started

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are waited for."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """Until the expression is true."""
        end = time.monotonic() + self._patience
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"{script} did not become true; errors: {self.errors}"
            time.sleep(0.05)
        return value

    def screenshot(self, selector: str | None = None) -> bytes:
        """PNG of the first element that fits the selector, or of the whole page."""
        name = f"document.querySelector({json.dumps(selector)})" if selector else "document.documentElement"
        box = self.run(
            f"(() => {{ const b = {name}.getBoundingClientRect(); "
            "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}; })()"
        )
        picture = self._call(
            "Page.captureScreenshot", clip={**box, "scale": 1}, captureBeyondViewport=selector is None
        )  # fmt: skip
        return base64.b64decode(picture["data"])

    def pixels(self, selector: str) -> np.ndarray:
        """RGB ``(height, width, 3)`` of an element in view, 0 to 1."""
        from matplotlib.image import imread

        return np.asarray(imread(io.BytesIO(self.screenshot(selector)), format="png"))[..., :3]

    def pdf(self) -> bytes:
        """The page as it is printed on the paper its style asks for."""
        printed = self._call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(printed["data"])

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + self._patience
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"the browser does not answer; errors: {self.errors}"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has gone"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        content: dict[str, Any] = json.loads(message)
        if "method" in content:
            self._events.append(content)
            self._note(content["method"], content["params"])
        return content

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            address = params["request"]["url"]
            if not address.startswith(("file:", "data:", "blob:", "about:")):
                self.requests.append(address)
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(
                " ".join(str(one.get("value", one.get("description"))) for one in params["args"])
            )
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])


@contextmanager
def open_page(executable: str, profile: Path, patience: float = 60.0) -> Iterator[Browser]:
    """Start a browser with a profile folder of its own, and end it.

    Args:
        patience: seconds to wait for an answer.
    """
    read_end, to_browser = os.pipe()
    from_browser, write_end = os.pipe()

    def connect() -> None:  # the browser reads from descriptor 3 and writes to 4
        ours = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read_end, write_end)]
        for place, end in enumerate(ours, 3):
            os.dup2(end, place)

    process = subprocess.Popen(
        [executable, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
        preexec_fn=connect, pass_fds=(3, 4),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(read_end)
    os.close(write_end)
    try:
        yield Browser(to_browser, from_browser, patience)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to_browser)
        os.close(from_browser)


def main(page: Path, times: int = 5) -> None:
    """Print seconds from starting a browser until it is there, and until the page is loaded."""
    for _ in range(times):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as profile, open_page(chromium() or "", Path(profile)) as browser:
            there = time.monotonic() - started
            loaded = browser.load(page)
            together = time.monotonic() - started
            print(f"browser {there:.2f} s, page {loaded:.2f} s, together {together:.2f} s")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
