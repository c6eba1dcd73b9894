"""Configs of tiny fields, which the benchmarks measure in no time."""

from pathlib import Path

import pytest

COMMON = "white_bkgd = True\nN_samples = 8\nN_rand = 16\nlrate = 1e-2\nlrate_decay = 1\nprecision = fp32\n"


@pytest.fixture(scope="session")
def tiny_mlp(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "mlp.txt"
    path.write_text(COMMON + "N_importance = 8\nuse_viewdirs = True\n" + "".join(
        f"netdepth{end} = 6\nnetwidth{end} = 16\n" for end in ("", "_fine")
    ))  # fmt: skip
    return path


@pytest.fixture(scope="session")
def tiny_grid(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "grid.txt"
    path.write_text(COMMON + "field = grid\nbound = 1.3\ngrid_min = 4\ngrid_max = 8\ngrid_levels = 2\noccupancy = 8\n")
    return path
