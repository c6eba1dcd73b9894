"""A small graph in memory."""

import numpy as np
import pytest
import torch
from planetoid_files import CLASSES, FEATURES

NODES = 60


@pytest.fixture
def small():
    """60 nodes of three classes that mostly cite their own; sparse features that hint at the class."""
    Data = pytest.importorskip("torch_geometric.data", reason="pip install torch_geometric").Data
    rng = np.random.default_rng(0)
    y = np.arange(NODES) % CLASSES
    likely = np.where(y[:, None] == y, 0.15, 0.01)
    above = np.triu(rng.random((NODES, NODES)) < likely, 1)
    above[0, 3] = True
    x = rng.random((NODES, FEATURES)) < np.where(np.arange(FEATURES) % CLASSES == y[:, None], 0.5, 0.1)
    masks = {f"{part}_mask": torch.zeros(NODES, dtype=torch.bool) for part in ("train", "val", "test")}
    for start, mask in zip((0, 15, 30), masks.values(), strict=True):
        mask[start : start + (30 if start == 30 else 15)] = True
    edges = torch.from_numpy(np.stack(np.nonzero(above | above.T)))
    return Data(x=torch.from_numpy(x).float(), y=torch.from_numpy(y), edge_index=edges, **masks)


@pytest.fixture(params=[True, False])
def mkl(request, monkeypatch):
    """Both ways of making scores."""
    if request.param and not torch.backends.mkl.is_available():
        pytest.skip("PyTorch without MKL")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: request.param)
