"""The floating-point peak of one core, measured: what the fraction of a kernel's speed refers to."""

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["peak_job"]

_CALLS = 200_000
_CHAINS = 12  # independent accumulators: more than latency times issue rate, fewer than registers
_WIDTHS = (16, 32, 64)  # bytes of a vector register: SSE or Neon, AVX2, AVX-512
_MATRIX = 1024

_SOURCE = """
typedef REAL vector __attribute__((vector_size(WIDTH)));
extern "C" double fma_loop(long n) {
    vector x[CHAINS];
    const vector a = vector{} + REAL(0.999), b = vector{} + REAL(0.001);
    for (int k = 0; k < CHAINS; ++k) x[k] = vector{} + REAL(k);
    for (long i = 0; i < n; ++i)
        for (int k = 0; k < CHAINS; ++k) x[k] = x[k] * a + b;
    double sum = 0;
    for (int k = 0; k < CHAINS; ++k)
        for (unsigned j = 0; j < WIDTH / sizeof(REAL); ++j) sum += x[k][j];
    return sum;
}
"""


def peak_job(dtype: torch.dtype, folder: Path) -> tuple[Callable[[], object], float, str]:
    """Return a function that does nothing but fused multiply-adds, their flops (two each), and what it is.

    A loop of independent multiply-adds in registers, compiled for this processor, in the widest vectors that
    pay; a matrix product of torch if there is no C++ compiler. Both use one thread.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        matrix = torch.ones((_MATRIX, _MATRIX), dtype=dtype)
        return lambda: matrix @ matrix, 2.0 * _MATRIX**3, f"torch matmul of {_MATRIX}²"
    real, size = ("float", 4) if dtype == torch.float32 else ("double", 8)
    best: tuple[Callable[[], object], float, str] | None = None
    speed = 0.0
    for width in _WIDTHS:
        loop = _compile(compiler, real, width, folder)
        flops = 2.0 * _CALLS * _CHAINS * width / size
        seconds = min(_seconds(loop) for _ in range(5))
        if flops / seconds > speed:
            speed = flops / seconds
            best = loop, flops, f"compiled loop of fused multiply-adds, {8 * width}-bit vectors"
    assert best is not None
    return best


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _compile(compiler: str, real: str, width: int, folder: Path) -> Callable[[], object]:
    source, library = folder / "peak.cpp", folder / f"peak-{real}-{width}.so"
    source.write_text(_SOURCE)
    defines = [f"-DREAL={real}", f"-DWIDTH={width}", f"-DCHAINS={_CHAINS}"]
    flags = ["-O3", "-march=native", "-ffp-contract=fast", "-funroll-loops", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, *defines, str(source), "-o", str(library)], check=True)
    loop = ctypes.CDLL(str(library)).fma_loop
    loop.restype, loop.argtypes = ctypes.c_double, [ctypes.c_long]
    return lambda: loop(_CALLS)
