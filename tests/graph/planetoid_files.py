"""A data set of Planetoid's files on the disk."""

import pickle
from pathlib import Path

import numpy as np
import scipy.sparse

FEATURES, CLASSES = 12, 3


def write_planetoid(root: Path, name: str = "cora", folder: str = "Cora", **changed) -> Path:
    """The eight files of a random graph: 9 training, 500 validation and 30 test nodes, one of these left out.

    changed: contents in place of some files'. Returns the folder.
    """
    rng = np.random.default_rng(1)
    known, test = 520, 30
    y = np.arange(known + test) % CLASSES
    x = scipy.sparse.csr_matrix((rng.random((known + test, FEATURES)) < 0.3).astype(np.float32))
    onehot = np.eye(CLASSES, dtype=np.int32)[y]
    numbers = np.array([n for n in range(known, known + test) if n != known + 4])
    rng.shuffle(numbers)
    graph = {n: [int(m) for m in rng.integers(0, known + test, 3)] for n in range(known + test)}
    parts = {"x": x[:9], "y": onehot[:9], "allx": x[:known], "ally": onehot[:known]}
    parts |= {"tx": x[numbers], "ty": onehot[numbers], "graph": graph, **changed}
    raw = root / folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part, contents in parts.items():
        data = contents if isinstance(contents, bytes) else pickle.dumps(contents, protocol=4)
        (raw / f"ind.{name}.{part}").write_bytes(data)
    (raw / f"ind.{name}.test.index").write_text("".join(f"{n}\n" for n in numbers))
    return raw
