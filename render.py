"""Render a trained run: python render.py --run RUN [--path circle|spiral|test | --pose ...] ..."""

import sys

from nerf_dfa.nerf.render import main
from nerf_dfa.training.devices import keep_freed_memory

if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
