"""Settings that every test shares: one thread per process, no display, reproducible examples."""

import os

# Before torch, OpenMM or matplotlib is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENMM_CPU_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from hypothesis import settings

settings.register_profile("bgdiff", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("bgdiff")
