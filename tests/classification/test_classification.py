"""Data that never change, a mask that really holds, early stopping and a plateau where the answer is known."""

import gzip
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nerf_dfa.classification import (
    ACTIVATIONS,
    ClassificationTask,
    Classifier,
    Settings,
    free_rows,
    make_trainer,
    train,
)
from nerf_dfa.classification.data import Dataset, load_dataset, read_idx, stratified_split
from nerf_dfa.classification.task import Plateau, fit
from nerf_dfa.errors import UserError
from nerf_dfa.learning import RULES


@pytest.fixture(scope="module")
def digits() -> Dataset:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn: pip install scikit-learn")
    return load_dataset("digits")


@pytest.fixture(scope="module")
def blobs() -> Dataset:
    """Three classes of noisy points in 5 dimensions; needs no scikit-learn."""
    generator = torch.Generator().manual_seed(0)
    labels = {part: torch.arange(30) % 3 for part in ("train", "val", "test")}
    images = {part: F.one_hot(y, 5) + 0.1 * torch.randn(30, 5, generator=generator) for part, y in labels.items()}
    return Dataset("blobs", images, labels, {part: torch.arange(30) for part in labels}, 3)


def test_parts_are_disjoint_and_together_everything(digits):
    rows = torch.cat(list(digits.index.values()))
    assert rows.sort().values.tolist() == list(range(1797))
    assert [len(digits.labels[part]) for part in ("train", "val", "test")] == [1078, 360, 359]


def test_parts_hold_every_class_in_the_same_fraction(digits):
    counts = {part: labels.bincount(minlength=10) for part, labels in digits.labels.items()}
    total = sum(counts.values())
    for part, fraction in {"train": 0.6, "val": 0.2, "test": 0.2}.items():
        assert ((counts[part] - fraction * total).abs() <= 1).all()


def test_split_does_not_depend_on_the_global_seed(digits):
    torch.manual_seed(12345)
    again = load_dataset("digits")
    assert all(torch.equal(digits.index[part], again.index[part]) for part in digits.index)
    assert [int(digits.index[part][0]) for part in ("train", "val", "test")] == [0, 2, 15]


def test_pixels_are_those_of_the_source_scaled(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    for part, rows in digits.index.items():
        torch.testing.assert_close(digits.images[part], torch.tensor(source.images[rows] / 16).flatten(1).float())
        assert digits.labels[part].tolist() == source.target[rows].tolist()
    assert digits.images["train"].min() == 0
    assert digits.images["train"].max() == 1


def _idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_fashion_files_are_read_plain_and_zipped(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        images, labels = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8), np.arange(count).astype(np.uint8) % 10
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(_idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(_idx(labels))
    data = load_dataset("fashion", tmp_path)
    assert {part: len(rows) for part, rows in data.index.items()} == {"train": 50, "val": 10, "test": 20}
    assert data.index["test"].tolist() == list(range(60, 80))
    torch.testing.assert_close(data.images["test"], torch.from_numpy(images.reshape(20, 784) / 255).float())
    assert data.labels["val"].bincount().tolist() == [1] * 10


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08\x01\x00\x00\x00\x05abc", b"not an idx file"])
def test_damaged_file_is_named(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=r"x is no idx file of bytes, or is cut short"):
        read_idx(tmp_path / "x")


def test_damaged_archive_is_named(tmp_path):
    archive = bytearray(gzip.compress(_idx(np.arange(200, dtype=np.uint8))))
    archive[10:20] = b"\xff" * 10  # the compressed data, behind the header
    (tmp_path / "x.gz").write_bytes(archive)
    with pytest.raises(UserError, match=r"x: cannot be read \("):
        read_idx(tmp_path / "x")


def test_missing_data_are_named(tmp_path):
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte"):
        load_dataset("fashion", tmp_path)
    with pytest.raises(UserError, match="needs datadir"):
        load_dataset("fashion")


def test_split_of_uneven_classes():
    labels = torch.tensor([0] * 7 + [1] * 3)
    train_rows, val, test = stratified_split(labels, (0.6, 0.2, 0.2))
    assert sorted([*train_rows.tolist(), *val.tolist(), *test.tolist()]) == list(range(10))
    assert labels[train_rows].tolist() == [0] * 4 + [1] * 2


@pytest.mark.parametrize(
    ("name", "below", "above"),
    [("leaky-0.5", 1.0, 2.0), ("leaky", -0.02, 2.0), ("abs", 2.0, 2.0), ("sin", -math.sin(2), math.sin(2))],
)
def test_activations_at_minus_two_and_two(name, below, above):
    torch.testing.assert_close(ACTIVATIONS[name](torch.tensor([-2.0, 2.0])), torch.tensor([below, above]))


def test_bp_gradients_are_those_of_a_plain_network(blobs):
    model = Classifier(6, 2, 3, "tanh", "bp", pixels=5)
    task = ClassificationTask(blobs, l1=0.01)
    batch = blobs.images["val"], blobs.labels["val"]
    task.loss(model, batch, torch.Generator())[0].backward()
    weights = [w.detach().double().requires_grad_() for w in model.parameters()]
    a, b, c, d, e, f = weights
    logits = torch.tanh(torch.tanh(batch[0].double() @ a.T + b) @ c.T + d) @ e.T + f
    loss = -logits.log_softmax(1)[range(30), batch[1]].mean() + 0.01 * sum(w.abs().sum() for w in (a, c, e))
    for parameter, expected in zip(model.parameters(), torch.autograd.grad(loss, weights), strict=True):
        torch.testing.assert_close(parameter.grad, expected.float())


@pytest.mark.parametrize("rule", ["bp", "dfa", "fdfa", "fa"])
def test_only_free_neurons_learn(blobs, rule):
    trainer = make_trainer(Settings(width=12, depth=3, rule=rule, free=4), blobs, 1e-2, seed=3)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.run(3)
    layer = trainer.model.layers[1]
    moved = {name: p.detach() != before[name] for name, p in trainer.model.named_parameters()}
    held = (layer.weight.grad == 0).all(1) & (layer.bias.grad == 0)
    assert int(held.sum()) == 8
    assert not moved["layers.1.weight"][held].any()
    assert not moved["layers.1.bias"][held].any()
    assert moved["layers.1.weight"][~held].any(1).all()
    assert moved["layers.0.weight"].any(1).all()
    assert moved["layers.2.weight"].any(1).all()


def test_mask_changes_nothing_but_the_held_neurons(blobs):
    """The held neurons have gradients of zero, and those of the free ones are as without a mask."""
    masked = Classifier(8, 3, 3, "tanh", "dfa", pixels=5)
    batch = blobs.images["val"], blobs.labels["val"]
    task = ClassificationTask(blobs)
    task.loss(masked, batch, torch.Generator())[0].backward()
    whole = [p.grad.clone() for p in masked.layers[1].parameters()]
    masked.zero_grad()
    free = free_rows(masked.layers[1], 3, torch.Generator().manual_seed(1))
    task.loss(masked, batch, torch.Generator())[0].backward()
    assert int(free.sum()) == 3
    for parameter, gradient in zip(masked.layers[1].parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad[free], gradient[free], rtol=0, atol=0)
        assert (parameter.grad[~free] == 0).all()


LEARNERS = [*((rule, "hybrid" if rule == "hdfa" else "adam") for rule in RULES), ("hdfa", "hybrid_adam")]


@pytest.mark.parametrize(("rule", "optimiser"), LEARNERS)
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_every_rule_trains_with_every_norm_and_dropout(blobs, rule, optimiser, norm):
    settings = Settings(width=8, depth=2, rule=rule, norm=norm, dropout=0.2, optimiser=optimiser, probability=0.5)
    settings = replace(settings, steps=4, evaluate_every=2, batch_size=8)
    first, second = train(settings, blobs, 1e-2, 0), train(settings, blobs, 1e-2, 0)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert len(first["alignment"]) == 2


@pytest.mark.parametrize("optimiser", ["adam", "radam", "rmsprop", "sgd"])
def test_shallow_leaves_hidden_layers_alone_and_still_learns(blobs, optimiser):
    settings = Settings(width=16, depth=2, rule="shallow", optimiser=optimiser, steps=100)
    trainer = make_trainer(settings, blobs, 0.1, 0)
    before = trainer.model.layers[0].weight.detach().clone()
    trainer.run(100)
    assert torch.equal(trainer.model.layers[0].weight, before)
    assert trainer.task.evaluate(trainer.model)["test_accuracy"] > 0.9


class Scripted:
    """A task whose evaluations are given."""

    def __init__(self, scores):
        self.scores = iter(scores)

    def evaluate(self, model):
        value = next(self.scores)
        return {"val_accuracy": value, "test_accuracy": value / 2}


def _scripted(blobs, scores):
    trainer = make_trainer(Settings(width=4, depth=1), blobs, 1e-2, 0)
    scripted = Scripted(scores)
    trainer.task.evaluate = scripted.evaluate
    return trainer


def test_early_stopping_keeps_the_first_best_evaluation(blobs):
    found = fit(_scripted(blobs, [0.5, 0.7, 0.7, 0.6, 0.9]), steps=50, evaluate_every=10, patience=2)
    assert (found.val_accuracy, found.test_accuracy, found.best_step, found.steps) == (0.7, 0.35, 20, 40)


def test_without_patience_all_steps_are_made(blobs):
    found = fit(_scripted(blobs, [0.5, 0.4, 0.3, 0.9]), steps=35, evaluate_every=10)
    assert (found.val_accuracy, found.best_step, found.steps) == (0.9, 35, 35)


def test_plateau_lowers_the_rate_after_patience():
    plateau, rates = Plateau(1.0, 0.5, 2), []
    for accuracy in (0.1, 0.2, 0.2, 0.1, 0.3, 0.3, 0.3, 0.3, 0.3):
        plateau.observe(accuracy)
        rates.append(plateau(0))
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


@pytest.mark.parametrize(("key", "value"), [("activation", "rulu"), ("norm", "group"), ("rule", "bpp")])
def test_unknown_names_are_refused(key, value):
    with pytest.raises(ValueError, match=f"'{value}'; there are"):
        Classifier(4, 1, 3, **{key: value})
