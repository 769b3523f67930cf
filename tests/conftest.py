"""Settings that every test shares: one thread per process, no display, reproducible examples."""

import os
import signal

# Before torch, OpenMM or matplotlib is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENMM_CPU_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from command_line import call  # noqa: F401 (a fixture)
from hypothesis import settings
from report_run import molecule_report  # noqa: F401
from twist_run import twist_run  # noqa: F401

# A shell starts background jobs with Ctrl-C ignored, and processes inherit that: the tests of Ctrl-C would
# wait in vain for their children to stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("bgdiff", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("bgdiff")
