"""pymbar's remarks are kept from the terminal and handed over; nothing global changes."""

import logging
import subprocess
import sys
import warnings

import numpy as np
import pytest

from bgdiff.free_energy.quiet import pymbar, quietly


def test_remarks_are_handed_over(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="bgdiff.free_energy.quiet"), quietly() as remarks:
        logging.getLogger("pymbar.mbar_solvers").warning("no solution")
        logging.getLogger("pymbar").info("not worth telling")
        warnings.warn("weights", RuntimeWarning, stacklevel=1)
    assert remarks == ["no solution", "weights"]
    assert [(r.name, r.levelname) for r in caplog.records] == [("bgdiff.free_energy.quiet", "DEBUG")] * 2


def test_the_process_is_left_as_it_was() -> None:
    logger = logging.getLogger("pymbar")
    before = logger.propagate, logger.level, list(logger.handlers), np.geterr()
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    with pytest.raises(ZeroDivisionError), quietly():
        np.seterr(over="raise")
        np.random.seed(0)  # noqa: NPY002
        raise ZeroDivisionError
    assert (logger.propagate, logger.level, list(logger.handlers), np.geterr()) == before
    assert np.random.random() == expected  # noqa: NPY002


def test_importing_is_silent_and_lazy() -> None:
    """pymbar is imported when first needed, and says nothing then."""
    assert pymbar().MBAR is not None
    code = (
        "import sys, bgdiff.free_energy as f\n"
        "assert not {'pymbar', 'scipy', 'torch', 'matplotlib'} & set(sys.modules), 'imports too much'\n"
        "assert abs(f.bar([0.1], [0.1]).value) < 1e-9\n"
        "assert 'pymbar' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
