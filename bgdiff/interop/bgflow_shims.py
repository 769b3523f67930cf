"""Import bgflow as it was released, next to a current numpy, without touching anybody else.

bgflow's last release uses ``numpy.infty``, which numpy 2 removed, when it is imported and when some of its
functions run. The name is given to numpy for the import alone; afterwards bgflow's own modules, and nothing
else, see a numpy that has it.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from bgdiff.errors import ConfigError
from bgdiff.free_energy.quiet import pymbar

__all__ = ["import_bgflow"]

_REMOVED: dict[str, Any] = {"infty": np.inf}
"""What bgflow uses and numpy may no longer have."""

_INSTALL = 'pip install "bgdiff[bgflow]" "bgflow @ git+https://github.com/noegroup/bgflow"'


def import_bgflow() -> Any:
    """Import bgflow and return the module. Afterwards a plain ``import bgflow`` works in this process too.

    A bgflow that was imported before is returned as it is.

    Raises:
        ConfigError: it, or a package that it needs, is missing; the message says how to install them.
    """
    if sys.modules.get("bgflow") is not None:
        return sys.modules["bgflow"]
    try:
        pymbar()  # bgflow imports it, and it speaks at import
        before = set(sys.modules)
        try:
            with _names_in_numpy(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = importlib.import_module("bgflow")
        except BaseException:
            # half-imported modules would make the next attempt fail in another way
            for name in set(sys.modules) - before:
                if _is_bgflow(name):
                    del sys.modules[name]
            raise
    except ImportError as error:
        raise ConfigError(
            f"bgflow cannot be imported ({error}). It is not on PyPI; install it and the package it does not "
            f"declare with: {_INSTALL}"
        ) from error
    _give_own_numpy()
    return module


@contextmanager
def _names_in_numpy() -> Iterator[None]:
    missing = [name for name in _REMOVED if not hasattr(np, name)]
    for name in missing:
        setattr(np, name, _REMOVED[name])
    try:
        yield
    finally:
        for name in missing:
            delattr(np, name)


class _Numpy(ModuleType):
    """numpy with the names that bgflow still uses."""

    def __getattr__(self, name: str) -> Any:
        return _REMOVED[name] if name in _REMOVED and not hasattr(np, name) else getattr(np, name)


def _give_own_numpy() -> None:
    if all(hasattr(np, name) for name in _REMOVED):
        return
    own = _Numpy("numpy")
    for name, module in list(sys.modules.items()):
        if _is_bgflow(name) and getattr(module, "np", None) is np:
            module.np = own  # type: ignore[attr-defined]


def _is_bgflow(name: str) -> bool:
    return name == "bgflow" or name.startswith("bgflow.")
