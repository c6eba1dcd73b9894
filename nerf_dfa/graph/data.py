"""A graph as the networks read it, and how its nodes or edges are shared out among training, validation and test."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import NormalizeFeatures, RandomLinkSplit, TargetIndegree

from nerf_dfa.errors import UserError
from nerf_dfa.graph.operators import Features
from nerf_dfa.graph.places import Neighbours

PARTS = ("train", "val", "test")
FOLDS = 5
FOLD_SEED = 2019  # the folds never change; which of them trains does
VALIDATION_EDGES, TEST_EDGES = 0.05, 0.1


@dataclass(frozen=True)
class Graph:
    """Nodes with features, labels in `classes` classes, and edges in both directions.

    pseudo: a coordinate in [0, 1] of every edge, see target_degrees.
    parts: the nodes of "train", "val" and "test".
    """

    name: str
    features: Features
    edges: Int[Tensor, "2 edges"]
    pseudo: Float[Tensor, " edges"]
    labels: Int[Tensor, " nodes"]
    classes: int
    parts: dict[str, Int[Tensor, " _"]]

    @cached_property
    def neighbours(self) -> Neighbours:
        return Neighbours(self.edges, len(self.labels))

    @cached_property
    def neighbours_of(self) -> dict[str, Neighbours]:
        """The edges into the nodes of each part."""
        return {part: self.neighbours.only_into(nodes) for part, nodes in self.parts.items()}


@dataclass(frozen=True)
class Links:
    """Pairs of nodes (2, n) by part: edges that were taken out of the graph, and as many pairs that are none.

    Each edge stands once. The training part has no pairs that are none: the task draws them anew in every step.
    """

    edges: dict[str, Int[Tensor, "2 _"]]
    others: dict[str, Int[Tensor, "2 _"]]


def make_graph(name: str, data: Data, row_normalised: bool) -> Graph:
    """The graph of torch_geometric's Data with x, y, edge_index and masks; row_normalised: see NormalizeFeatures.

    Raises UserError where x, y and edge_index do not belong together.
    """
    if data.x.dim() != 2 or len(data.x) != len(data.y) or not data.x.shape[1]:
        raise UserError(f"{name}: features of shape {tuple(data.x.shape)} for {len(data.y)} labelled nodes")
    if not data.edge_index.numel() or data.edge_index.min() < 0 or data.edge_index.max() >= len(data.x):
        raise UserError(f"{name}: its {data.edge_index.shape[1]} edges are not between nodes 0 to {len(data.x) - 1}")
    if row_normalised:
        data = NormalizeFeatures()(data.clone())
    parts = {part: data[f"{part}_mask"].nonzero()[:, 0] for part in PARTS}
    pseudo = target_degrees(data.edge_index, len(data.x))
    return _checked(Graph(name, Features.of(data.x), data.edge_index, pseudo, data.y, int(data.y.max()) + 1, parts))


def target_degrees(edges: Int[Tensor, "2 edges"], nodes: int) -> Float[Tensor, " edges"]:
    """The degree of every edge's target over the largest degree (torch_geometric's TargetIndegree)."""
    return TargetIndegree()(Data(edge_index=edges, num_nodes=nodes)).edge_attr[:, 0]


def _checked(graph: Graph) -> Graph:
    for part in PARTS:
        if not len(graph.parts[part]):
            raise UserError(f"{graph.name}: its {part} part has no nodes")
    counts = graph.labels[graph.parts["train"]].bincount(minlength=graph.classes)
    if not counts.all():
        raise UserError(f"{graph.name}: class {int(counts.argmin())} has no labelled training node")
    return graph


def with_folds(graph: Graph, seed: int) -> Graph:
    """The graph with other parts: of five stratified folds one trains, the next validates, three test.

    seed: which one trains, modulo 5.
    """
    folds = stratified_folds(graph.labels, FOLDS)
    order = [(seed + i) % FOLDS for i in range(FOLDS)]
    test = torch.cat([folds[i] for i in order[2:]]).sort().values
    return _checked(replace(graph, parts={"train": folds[order[0]], "val": folds[order[1]], "test": test}))


def stratified_folds(labels: Int[Tensor, " nodes"], count: int) -> list[Int[Tensor, " _"]]:
    """Nodes in `count` parts that hold every class, and all nodes, in equal numbers to within one."""
    generator = torch.Generator().manual_seed(FOLD_SEED)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    return [by_class[first::count].sort().values for first in range(count)]


def with_links(graph: Graph, seed: int) -> tuple[Graph, Links]:
    """The graph without 15 % of its edges, 5 for validation and 10 for test, and all edges as pairs to tell."""
    split = RandomLinkSplit(
        num_val=VALIDATION_EDGES,
        num_test=TEST_EDGES,
        is_undirected=True,
        split_labels=True,
        add_negative_train_samples=False,
    )
    with _seeded(seed):
        parts = dict(zip(PARTS, split(Data(edge_index=graph.edges, num_nodes=len(graph.labels))), strict=True))
    edges = {part: data.pos_edge_label_index for part, data in parts.items()}
    others = {part: parts[part].neg_edge_label_index for part in ("val", "test")}
    if not all(pairs.shape[1] for pairs in (*edges.values(), *others.values())):
        raise UserError(f"{graph.name}: {graph.edges.shape[1] // 2} edges are too few to hold out validation and test")
    kept = parts["train"].edge_index
    return replace(graph, edges=kept, pseudo=target_degrees(kept, len(graph.labels))), Links(edges, others)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Within it Python's and torch's global generators start from the seed; then they are as before."""
    before = random.getstate()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before)
