"""Compile the batched kernel. Standard library only: the installer runs this file before bgdiff is installed.

``python -m bgdiff.targets.forcefield.build`` compiles it again in place, as ``pip install -e .`` does.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["CPU_LIBRARY", "LIBRARIES", "SOURCES", "VARIANTS", "build_kernel", "library_name", "source_digest"]

SOURCES = Path(__file__).parent / "src"
LIBRARIES = Path(__file__).parent / "lib"
CPU_LIBRARY = "cpu.so"

# Widest first. Code for the bare architecture is "portable": SSE2 on x86-64, NEON on 64-bit Arm.
_X86_FLAGS = {
    "v4": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"),
    "v3": ("-mavx2", "-mfma"),
    "v2": ("-msse4.2",),
    "portable": (),
}
VARIANTS = tuple(_X86_FLAGS)

# Contraction to fused multiply-adds is wanted; anything of -ffast-math would break nan and infinity.
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wno-psabi",
)
_SECONDS = 600  # for one compilation, on a slow and busy machine


def library_name(variant: str) -> str:
    """Return the file name of a variant's library."""
    return f"kernel-{variant}.so"


def source_digest(sources: Path = SOURCES) -> str:
    """Return a digest of the kernel's sources. A library carries it, so that a stale one is recognised."""
    digest = hashlib.sha256()
    for path in sorted(sources.iterdir()):
        if path.suffix in {".cpp", ".hpp", ".h"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def build_kernel(
    target: Path = LIBRARIES, sources: Path = SOURCES, *, warn: Callable[[str], None] = print
) -> list[Path]:
    """Compile every variant that the compiler can make for this architecture, and return the libraries.

    The compiler is ``$CXX`` if set, else the first of c++, g++ and clang++ that works. Nothing is raised:
    what cannot be compiled is reported through ``warn`` and left out, and without any library bgdiff
    evaluates force fields in torch. A library replaces its predecessor in one step, so that programs
    that use the old one are not disturbed.
    """
    if sys.platform == "win32":
        warn("the batched force-field kernel is not built on Windows; energies will be evaluated in torch")
        return []
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as scratch:
            return _build(target, sources, Path(scratch), warn)
    except OSError as error:
        warn(f"the batched force-field kernel was not built ({error}); energies will be evaluated in torch")
        return []


def _build(target: Path, sources: Path, scratch: Path, warn: Callable[[str], None]) -> list[Path]:
    compiler, problems = None, []
    for candidate in _compilers():
        problem = _compile(candidate, sources / "cpu.cpp", scratch / CPU_LIBRARY, ())
        if problem is None:
            compiler = candidate
            break
        problems.append(problem)
    if compiler is None:
        reasons = "; ".join(problems) or "none of c++, g++ and clang++ was found"
        warn(
            f"no working C++ compiler ({reasons}): the batched force-field kernel was not built, and "
            "energies will be evaluated in torch, about 20 times slower. Install a compiler and reinstall."
        )
        return []

    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    flags = _X86_FLAGS if x86 else {"portable": ()}
    define = f'-DBGDIFF_SOURCES="{source_digest(sources)}"'

    def compile_variant(variant: str) -> str | None:
        output = scratch / library_name(variant)
        return _compile(compiler, sources / "kernel.cpp", output, (define, *flags[variant]))

    built = [CPU_LIBRARY]
    with ThreadPoolExecutor(max_workers=min(len(flags), os.cpu_count() or 1)) as pool:
        for variant, problem in zip(flags, pool.map(compile_variant, flags), strict=True):
            if problem is None:
                built.append(library_name(variant))
            else:
                warn(f"variant {variant} of the batched force-field kernel was not built: {problem}")
    if len(built) == 1:
        return []
    return [(scratch / name).replace(target / name) for name in built]


def _compilers() -> list[list[str]]:
    if os.environ.get("CXX"):
        return [shlex.split(os.environ["CXX"])]
    return [[name] for name in ("c++", "g++", "clang++") if shutil.which(name)]


def _compile(compiler: Sequence[str], source: Path, output: Path, flags: Sequence[str]) -> str | None:
    """Compile one file; return what went wrong, in one line, or None."""
    command = [*compiler, *_FLAGS, *flags, str(source), "-o", str(output)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{compiler[0]}: {error}"
    if result.returncode == 0 and output.is_file():
        return None
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
    return f"{compiler[0]} failed with status {result.returncode}: {first.strip()}"


if __name__ == "__main__":
    made = build_kernel(warn=lambda message: print(f"warning: {message}", file=sys.stderr))  # noqa: T201
    sys.stdout.write("".join(f"{path}\n" for path in made))
    sys.exit(not made)
