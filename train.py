"""Train a neural radiance field: python train.py [--config FILE] [--learning_rule bp|dfa|shallow] ..."""

import sys
from pathlib import Path

from nerf_dfa.nerf.train import main
from nerf_dfa.training.devices import keep_freed_memory

if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main(default_config=Path(__file__).parent / "configs" / "demo.txt"))
