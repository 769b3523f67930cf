"""Running the command line inside the tests' own process."""

import logging
import re
import sys
from collections.abc import Callable, Iterator

import pytest

from bgdiff.cli import main

Call = Callable[..., "Outcome"]


class Outcome:
    """Exit code and output; ``said`` is stderr on one line, without the frames drawn around errors."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.said = re.sub(r"[\s│╭╮╰╯─]+", " ", err)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Run the command line in this process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["bgdiff", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        code = stopped.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    yield call
    root.handlers[:], root.level = handlers, level
    logging.getLogger("bgdiff").setLevel(logging.NOTSET)
