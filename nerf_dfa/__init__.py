"""nerf_dfa: neural radiance fields in which how the network learns is a switch."""

import os

__version__ = "0.1.0"

# How long a thread of GNU's OpenMP, which torch has on Linux, waits for the others awake before it sleeps. By default
# so long that where other programs need the cores a step takes twenty times as long (docs/performance.md). It is read
# once, when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
