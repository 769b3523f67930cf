"""pymbar without its remarks: what it has to say is handed to the caller instead of the terminal.

pymbar logs at import (JAX, correlated samples) and at every solve, changes numpy's error handling and seeds
numpy's global generator. Both functions here leave the process as they found it.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["pymbar", "quietly"]

log = logging.getLogger(__name__)


class _Collector(logging.Handler):
    """Keeps the messages of records from warnings upwards."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(level=logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage().strip())


@contextmanager
def quietly() -> Iterator[list[str]]:
    """Run pymbar silently; yields the list to which its warnings, logged or raised as such, are added.

    They are also logged by bgdiff at level DEBUG. Numpy's error handling and global random state are
    restored at the end.
    """
    messages: list[str] = []
    logger = logging.getLogger("pymbar")
    propagate, level = logger.propagate, logger.level
    handler = _Collector(messages)
    state = np.random.get_state()  # noqa: NPY002 (pymbar seeds the legacy generator)
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield messages
        messages.extend(str(one.message) for one in caught)
    finally:
        logger.propagate = propagate
        logger.setLevel(level)
        logger.removeHandler(handler)
        np.random.set_state(state)  # noqa: NPY002
        for message in messages:
            log.debug("pymbar: %s", message)


def pymbar() -> Any:
    """Import pymbar without its remarks on JAX and on correlated samples."""
    with quietly():
        import pymbar
        import pymbar.other_estimators
        import pymbar.timeseries
    return pymbar
