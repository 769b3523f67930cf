"""Build hook: compile the force-field kernel and put it into the wheel, or beside its sources if editable.

Whatever goes wrong is a warning. A wheel without the kernel is a pure Python wheel, and bgdiff then evaluates
force fields in torch.
"""

import importlib.util
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

PACKAGE = "bgdiff/targets/forcefield"


class KernelBuildHook(BuildHookInterface):
    """Runs for ``pip install .``, ``pip install -e .`` and ``python -m build --wheel``; not for an sdist."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say so in ``build_data``. ``version`` is "standard" or "editable"."""
        self._scratch: str | None = None
        kernel = load_build_module(Path(self.root))
        if version == "editable":
            libraries = kernel.build_kernel(warn=self.app.display_warning)
        else:
            # Not into the checkout: an editable installation of it may be in use.
            self._scratch = tempfile.mkdtemp(prefix="bgdiff-kernel-")
            libraries = kernel.build_kernel(Path(self._scratch), warn=self.app.display_warning)
            build_data["force_include"].update(
                {str(path): f"{PACKAGE}/{kernel.LIBRARIES.name}/{path.name}" for path in libraries}
            )
        if libraries:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_tag()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what the wheel now has a copy of."""
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)


def load_build_module(root: Path) -> ModuleType:
    """Import ``bgdiff.targets.forcefield.build`` from its file, without bgdiff and its dependencies."""
    spec = importlib.util.spec_from_file_location("bgdiff_build", root / PACKAGE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def platform_tag() -> str:
    """This machine's platform; a library compiled here is not a manylinux one."""
    platforms = (tag.platform for tag in sys_tags())
    return next(name for name in platforms if not name.startswith(("manylinux", "musllinux")))
