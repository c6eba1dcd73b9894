"""Graphs, folds and held-out edges."""

import pytest
import torch

pytest.importorskip("torch_geometric", reason="pip install torch_geometric")

from nerf_dfa.errors import UserError
from nerf_dfa.graph.data import make_graph, stratified_folds, with_folds, with_links
from nerf_dfa.graph.settings import Settings
from nerf_dfa.graph.task import make_task


def test_graph_has_row_normalised_features_and_target_degrees(small):
    graph = make_graph("small", small, row_normalised=True)
    sums = graph.features.dense().sum(1)
    torch.testing.assert_close(sums[small.x.any(1)], torch.ones(int(small.x.any(1).sum())))
    counts = small.edge_index[1].bincount()
    torch.testing.assert_close(graph.pseudo, (counts / counts.max())[small.edge_index[1]])
    torch.testing.assert_close(make_graph("small", small, row_normalised=False).features.dense(), small.x)


def test_class_without_labels_is_named(small):
    small.y[small.train_mask & (small.y == 2)] = 0
    with pytest.raises(UserError, match="small: class 2 has no labelled training node"):
        make_graph("small", small, True)


def test_features_of_another_size_are_named(small):
    small.x = small.x[:50]
    with pytest.raises(UserError, match=r"small: features of shape \(50, 12\) for 60 labelled nodes"):
        make_graph("small", small, True)


def test_edges_to_nowhere_are_named(small):
    small.edge_index[1, 0] = 60
    with pytest.raises(UserError, match="edges are not between nodes 0 to 59"):
        make_graph("small", small, True)


def test_part_without_nodes_is_named(small):
    small.val_mask[:] = False
    with pytest.raises(UserError, match="small: its val part has no nodes"):
        make_graph("small", small, True)


def test_folds_hold_every_class_alike():
    labels = torch.tensor([0] * 13 + [1] * 10 + [2] * 4)[torch.randperm(27)]
    folds = stratified_folds(labels, 5)
    assert torch.cat(folds).sort().values.tolist() == list(range(27))
    counts = torch.stack([labels[fold].bincount(minlength=3) for fold in folds])
    assert (counts.max(0).values - counts.min(0).values <= 1).all()
    assert {len(fold) for fold in folds} <= {5, 6}
    torch.manual_seed(99)
    assert all(torch.equal(a, b) for a, b in zip(folds, stratified_folds(labels, 5), strict=True))


def test_each_fold_trains_once(small):
    graph = make_graph("small", small, False)
    splits = [with_folds(graph, seed).parts for seed in range(5)]
    assert torch.cat([parts["train"] for parts in splits]).sort().values.tolist() == list(range(60))
    for number, parts in enumerate(splits):
        assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(60))
        assert torch.equal(parts["val"], splits[(number + 1) % 5]["train"])


def test_links_do_not_leak(small):
    graph = make_graph("small", small, True)
    state = torch.get_rng_state()
    kept, links = with_links(graph, 3)
    assert torch.equal(torch.get_rng_state(), state)
    every = {tuple(sorted(pair)) for pair in graph.edges.T.tolist()}
    parts = {part: [tuple(sorted(p)) for p in pairs.T.tolist()] for part, pairs in links.edges.items()}
    assert sorted(pair for pairs in parts.values() for pair in pairs) == sorted(every)
    assert (len(parts["val"]), len(parts["test"])) == (int(0.05 * len(every)), int(0.1 * len(every)))
    assert {tuple(sorted(pair)) for pair in kept.edges.T.tolist()} == set(parts["train"])
    for part in ("val", "test"):
        others = [tuple(sorted(pair)) for pair in links.others[part].T.tolist()]
        assert len(others) == len(parts[part])
        assert not every & set(others)
    again = with_links(graph, 3)[1]
    assert all(torch.equal(links.others[part], again.others[part]) for part in links.others)
    assert not torch.equal(links.edges["test"], with_links(graph, 4)[1].edges["test"])


def test_drawn_pairs_are_no_training_edges(small):
    task = make_task(Settings("small", "gae"), small, 0)
    pairs = task.batch(1, torch.Generator().manual_seed(0))
    taken = {tuple(pair) for pair in task.graph.edges.T.tolist()}
    assert 0 < pairs.shape[1] <= task.links.edges["train"].shape[1]
    assert not taken & {tuple(pair) for pair in pairs.T.tolist()}
    assert (pairs[0] != pairs[1]).all()


def test_link_scores_of_a_known_embedding(small):
    """An embedding whose inner products are those of the classes: AUC by counting pairs."""
    task = make_task(Settings("small", "gae"), small, 0)
    z = torch.eye(3)[small.y] + 0.01 * torch.rand(60, 3)
    scores = task.evaluate(Fixed(z))
    for part in ("val", "test"):
        good, bad = ((z[i] * z[j]).sum(1) for i, j in (task.links.edges[part], task.links.others[part]))
        wins = (good[:, None] > bad).double() + 0.5 * (good[:, None] == bad)
        assert scores[f"{part}_auc"] == pytest.approx(float(wins.mean()))
        ranked = torch.cat([good, bad]).argsort(descending=True) < len(good)
        precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
        assert scores[f"{part}_ap"] == pytest.approx(float(precision[ranked].mean()))


class Fixed(torch.nn.Module):
    def __init__(self, z):
        super().__init__()
        self.z = z

    def forward(self, graph):
        return self.z
