"""Planetoid's files: against torch_geometric's own reader, and each way they can be wrong or hostile."""

import os
import pickle
import shutil

import numpy as np
import pytest
import scipy.sparse
import torch

pytest.importorskip("torch_geometric", reason="pip install torch_geometric")

from planetoid_files import CLASSES, FEATURES, write_planetoid
from torch_geometric.io import read_planetoid_data
from torch_geometric.utils import coalesce

from nerf_dfa.errors import UserError
from nerf_dfa.graph import planetoid
from nerf_dfa.graph.planetoid import DATASETS, read_planetoid


def same(ours, theirs):
    for key in ("x", "y", "train_mask", "val_mask", "test_mask"):
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)
    both = coalesce(torch.cat([theirs.edge_index, theirs.edge_index.flip(0)], 1))
    assert torch.equal(ours.edge_index, both)


@pytest.mark.parametrize(("name", "nodes", "edges"), [("cora", 2708, 10556), ("citeseer", 3327, 9104)])
def test_real_graphs_are_as_torch_geometric_reads_them(data, name, nodes, edges):
    root = data / "planetoid"
    if not (root / DATASETS[name]).is_dir():
        pytest.skip(f"no {root / DATASETS[name]}")
    ours = read_planetoid(name, root)
    same(ours, read_planetoid_data(str(root / DATASETS[name] / "raw"), name))
    assert (len(ours.x), ours.edge_index.shape[1]) == (nodes, edges)
    assert ours.y[ours.train_mask].bincount().unique().tolist() == [20]


def test_made_graph_with_a_gap_among_its_test_nodes(tmp_path):
    raw = write_planetoid(tmp_path, "citeseer", "CiteSeer")  # torch_geometric fills gaps for this one
    ours = read_planetoid("citeseer", tmp_path)
    same(ours, read_planetoid_data(str(raw), "citeseer"))
    assert not ours.x[524].any()
    assert not ours.test_mask[524]
    assert ours.test_mask.sum() == 29


def test_unknown_name(tmp_path):
    with pytest.raises(UserError, match="unknown data set 'corra'; there are cora, citeseer, pubmed"):
        read_planetoid("corra", tmp_path)


def test_missing_files_are_named(tmp_path):
    raw = write_planetoid(tmp_path)
    (raw / "ind.cora.tx").unlink()
    with pytest.raises(UserError, match=r"raw: ind\.cora\.tx not found; .* or give --download"):
        read_planetoid("cora", tmp_path)


def test_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def refuse(url, *args, **kwargs):
        raise ConnectionError("no route\nto the host")

    monkeypatch.setattr(planetoid, "download_url", refuse)
    with pytest.raises(UserError, match=r"ind\.cora\.x: ConnectionError: no route$"):
        read_planetoid("cora", tmp_path, download=True)


def test_download_gets_what_is_missing(tmp_path, monkeypatch):
    raw = write_planetoid(tmp_path / "there")
    write_planetoid(tmp_path / "here")
    (tmp_path / "here/Cora/raw/ind.cora.graph").unlink()
    asked = []

    def fetch(url, folder, log):
        asked.append(url)
        shutil.copy(raw / url.rpartition("/")[2], folder)

    monkeypatch.setattr(planetoid, "download_url", fetch)
    same(read_planetoid("cora", tmp_path / "here", download=True), read_planetoid("cora", tmp_path / "there"))
    assert [url.rpartition("/")[2] for url in asked] == ["ind.cora.graph"]


@pytest.mark.parametrize("part", ["x", "tx", "allx", "y", "ty", "ally", "graph", "test.index"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_truncated_file_is_named(tmp_path, part, keep):
    path = write_planetoid(tmp_path) / f"ind.cora.{part}"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match=rf"ind\.cora\.{part}: ") as caught:
        read_planetoid("cora", tmp_path)
    assert "\n" not in str(caught.value)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("part", ["x", "ally", "graph"])
def test_pickles_run_no_code(tmp_path, monkeypatch, part):
    monkeypatch.chdir(tmp_path)
    write_planetoid(tmp_path, **{part: pickle.dumps(Hostile())})
    with pytest.raises(UserError, match=rf"ind\.cora\.{part}: cannot be read.*mkdir"):
        read_planetoid("cora", tmp_path)
    assert not (tmp_path / "executed").exists()


def matrix_with_index(column):
    matrix = scipy.sparse.csr_matrix(np.eye(520, FEATURES, dtype=np.float32))
    matrix.indices[3] = column
    return matrix


four_wide = {part: np.eye(4)[np.arange(count) % 3] for part, count in (("y", 9), ("ally", 520), ("ty", 29))}
two_classes = np.eye(CLASSES)[[0, 1] * 5 + [2] * 510]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tx": scipy.sparse.csr_matrix(np.ones((29, FEATURES + 1)))}, r"ind\.cora\.tx is 13 wide, and .*allx is 12"),
        ({"ty": np.eye(4)[[0] * 29]}, r"ind\.cora\.ty is 4 wide, and ind\.cora\.ally is 3"),
        ({"ty": np.eye(CLASSES)[[0] * 28]}, r"ind\.cora\.tx has 29 rows, and ind\.cora\.ty has 28"),
        ({"x": np.ones((9, FEATURES))}, r"ind\.cora\.x: expected a sparse matrix"),
        ({"allx": matrix_with_index(99)}, r"ind\.cora\.allx: expected a sparse matrix"),
        ({"y": np.full((9, CLASSES), 0.5)}, r"ind\.cora\.y: expected one-hot labels"),
        ({"ty": np.zeros((29, CLASSES))}, r"ind\.cora\.ty: expected one-hot labels"),
        (four_wide, r"ind\.cora\.y: class 3 has no labelled training node"),
        ({"y": np.eye(CLASSES)[[0, 1] * 4 + [0]]}, r"ind\.cora\.y differs from the first rows of ind\.cora\.ally"),
        ({"y": two_classes[:9], "ally": two_classes}, r"ind\.cora\.y: class 2 has no labelled training node"),
        ({"graph": {0: [1, 5000]}}, r"ind\.cora\.graph: it names nodes 0 to 5000; the other files have 0 to 549"),
        ({"graph": []}, r"ind\.cora\.graph: expected a dictionary"),
    ],
)
def test_files_that_do_not_fit(tmp_path, changed, message):
    write_planetoid(tmp_path, **changed)
    with pytest.raises(UserError, match=message):
        read_planetoid("cora", tmp_path)


def test_test_nodes_that_do_not_follow(tmp_path):
    path = write_planetoid(tmp_path) / "ind.cora.test.index"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["5", *lines[1:]]))
    with pytest.raises(UserError, match=r"test nodes follow node 519; it has 5 to"):
        read_planetoid("cora", tmp_path)
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(UserError, match=r"the numbers of 29 test nodes, each once; it has 28"):
        read_planetoid("cora", tmp_path)
