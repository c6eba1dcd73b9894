"""Render a trained run: python render.py --run RUN [--path circle|spiral|test | --pose ...] ..."""

import sys

from nerf_dfa.nerf.render import main

if __name__ == "__main__":
    sys.exit(main())
