"""The Planetoid citation graphs from their raw files, read without running code that a file may hold.

`ROOT/Cora/raw/ind.cora.x` and seven more (torch_geometric's layout; its `Planetoid` reads the same files):

| file                | what                                                                             |
|---------------------|----------------------------------------------------------------------------------|
| x, y                | features and one-hot labels of the training nodes, which are nodes 0, 1, ...     |
| allx, ally          | of all nodes that are not test nodes, 0, 1, ...                                  |
| tx, ty, test.index  | of the test nodes, and their numbers; numbers left out are nodes without features|
| graph               | dictionary from a node to its neighbours                                         |

All but test.index are pickles of Python 2. A pickle can run any code, so these are read by an unpickler that makes
NumPy arrays, SciPy matrices, dictionaries and lists, and refuses everything else; torch_geometric's own reader and
its cache of processed files are not used.
"""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch_geometric.data import Data, download_url
from torch_geometric.datasets import Planetoid
from torch_geometric.utils import coalesce, remove_self_loops

from nerf_dfa.errors import UserError

DATASETS = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}  # and their folders' names
PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
VALIDATION_NODES = 500  # of the public split: those that follow the training nodes

_RECONSTRUCT = np.array(0).__reduce__()[0]  # NumPy's maker of an array that a pickle then fills
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("scipy.sparse.csr", "csr_matrix"): scipy.sparse.csr_matrix,
    ("scipy.sparse._csr", "csr_matrix"): scipy.sparse.csr_matrix,
    ("collections", "defaultdict"): collections.defaultdict,
    ("__builtin__", "list"): list,
    ("builtins", "list"): list,
}


class PlainUnpickler(pickle.Unpickler):
    """Makes arrays, sparse matrices, dictionaries and lists; a name of anything else raises UnpicklingError."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no Planetoid file needs")
        return _ALLOWED[module, name]


def read_planetoid(name: str, root: str | Path, download: bool = False) -> Data:
    """The graph with dense `x` (nodes, features), `y` (nodes,), `edge_index` and the masks of the public split.

    Edges stand in both directions, each once, none from a node to itself. download: get files that are missing from
    where torch_geometric gets them.
    Raises UserError, in one line, for an unknown name, a file that is missing or damaged or does not fit the others,
    and a class without training node.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set '{name}'; there are {', '.join(DATASETS)}")
    folder = Path(root) / DATASETS[name] / "raw"
    paths = {part: folder / f"ind.{name}.{part}" for part in PARTS}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing and download:
        _download(missing, folder)
    elif missing:
        shown = ", ".join(missing) if len(missing) <= 3 else f"{missing[0]} and {len(missing) - 1} more"
        raise UserError(
            f"{folder}: {shown} not found; --root names the folder that has {DATASETS[name]}/raw, or give --download"
        )
    return _assembled(paths)


def _download(names: list[str], folder: Path) -> None:
    for name in names:
        try:
            download_url(f"{Planetoid.url}/{name}", str(folder), log=False)
        except Exception as error:  # whatever its file system library raises
            raise UserError(f"{Planetoid.url}/{name}: {type(error).__name__}: {error}".splitlines()[0]) from error


def _assembled(paths: dict[str, Path]) -> Data:
    features = {part: _features(paths[part]) for part in ("x", "tx", "allx")}
    labels = {part: _labels(paths[part]) for part in ("y", "ty", "ally")}
    for part, reference in (("x", features), ("y", labels)):
        width = reference[f"all{part}"].shape[1]
        for other in (part, f"t{part}"):
            if reference[other].shape[1] != width:
                raise UserError(
                    f"{paths[other]} is {reference[other].shape[1]} wide, and {paths['all' + part].name} is {width}"
                )
    for x, y in (("x", "y"), ("tx", "ty"), ("allx", "ally")):
        if len(features[x]) != len(labels[y]):
            raise UserError(f"{paths[x]} has {len(features[x])} rows, and {paths[y].name} has {len(labels[y])}")
    for part, reference in (("x", features), ("y", labels)):
        if not torch.equal(reference[part], reference[f"all{part}"][: len(reference[part])]):
            raise UserError(f"{paths[part]} differs from the first rows of {paths['all' + part].name}")
    if not labels["y"].any(0).all():
        unlabelled = int(labels["y"].any(0).long().argmin())
        raise UserError(f"{paths['y']}: class {unlabelled} has no labelled training node")
    train, known = len(labels["y"]), len(labels["ally"])
    if train + VALIDATION_NODES > known:
        raise UserError(
            f"{paths['ally']} has {known} rows; {train} for training and {VALIDATION_NODES} for validation are expected"
        )
    test = _test_index(paths["test.index"], known, len(labels["ty"]))
    nodes = max(known, int(test.max()) + 1)
    x = torch.zeros(nodes, features["allx"].shape[1])
    y = torch.zeros(nodes, dtype=torch.int64)  # a node that no file labels counts as class 0, as in torch_geometric
    x[:known], y[:known] = features["allx"], labels["ally"].argmax(1)
    x[test], y[test] = features["tx"], labels["ty"].argmax(1)
    masks = {part: torch.zeros(nodes, dtype=torch.bool) for part in ("train", "val", "test")}
    masks["train"][:train] = masks["val"][train : train + VALIDATION_NODES] = masks["test"][test] = True
    edges = _edges(paths["graph"], nodes)
    return Data(x=x, y=y, edge_index=edges, **{f"{part}_mask": mask for part, mask in masks.items()})


def _unpickled(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            return PlainUnpickler(file, encoding="latin1").load()
    except Exception as error:  # rubbish makes pickle raise almost anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: cannot be read, it is damaged or cut short ({reason})") from error


def _features(path: Path) -> torch.Tensor:
    matrix = _unpickled(path)
    try:
        matrix = scipy.sparse.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
        matrix.check_format(full_check=True)  # indices in range: SciPy's own loops do not look
        dense = torch.from_numpy(matrix.toarray().astype(np.float32))
    except (AttributeError, TypeError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: expected a sparse matrix of features ({error})".replace("\n", " ")) from error
    if not dense.isfinite().all():
        raise UserError(f"{path}: a feature is not finite")
    return dense


def _labels(path: Path) -> torch.Tensor:
    rows = _unpickled(path)
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype.kind not in "iufb" or not rows.size:
        raise UserError(f"{path}: expected an array of one-hot labels (nodes, classes)")
    if not np.isin(rows, (0, 1)).all() or (rows.sum(1) != 1).any():
        raise UserError(f"{path}: expected one-hot labels: rows with a single 1 and else 0")
    return torch.from_numpy(rows.astype(np.int64))


def _test_index(path: Path, known: int, count: int) -> torch.Tensor:
    try:
        numbers = np.array([int(line) for line in path.read_text(encoding="ascii").split()])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if len(numbers) != count or len(np.unique(numbers)) != count:
        raise UserError(f"{path}: expected the numbers of {count} test nodes, each once; it has {len(numbers)}")
    if numbers.min() < known or numbers.max() > known + 2 * count:
        raise UserError(f"{path}: test nodes follow node {known - 1}; it has {numbers.min()} to {numbers.max()}")
    return torch.from_numpy(numbers)


def _edges(path: Path, nodes: int) -> torch.Tensor:
    graph = _unpickled(path)
    try:
        pairs = [(int(node), int(other)) for node, others in graph.items() for other in others]
    except (AttributeError, TypeError, ValueError):
        pairs = []
    if not pairs:
        raise UserError(f"{path}: expected a dictionary from each node to the list of its neighbours")
    edges = torch.tensor(pairs).T
    if edges.min() < 0 or edges.max() >= nodes:
        raise UserError(
            f"{path}: it names nodes {int(edges.min())} to {int(edges.max())}; the other files have 0 to {nodes - 1}"
        )
    edges, _ = remove_self_loops(torch.cat([edges, edges.flip(0)], dim=1))
    return coalesce(edges, num_nodes=nodes)
