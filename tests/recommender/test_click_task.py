"""Training: scores against brute force, early stopping, resumed runs, and what the models can learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nerf_dfa.errors import UserError
from nerf_dfa.recommender.cache import make_cache
from nerf_dfa.recommender.criteo import Criteo
from nerf_dfa.recommender.data import Data
from nerf_dfa.recommender.settings import Settings
from nerf_dfa.recommender.synthetic import Law, write_criteo
from nerf_dfa.recommender.task import fit, make_trainer, train
from nerf_dfa.training.checkpoints import list_checkpoints

SMALL = Settings(
    min_count=5, model="deepfm", embedding=4, mlp_width=16, mlp_blocks=2, batch=100, lr=3e-3, epochs=3, neurons=4
)


class Table(torch.nn.Module):
    """Fixed logits for the rows of a part, as they are asked for."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.start = logits, 0

    def forward(self, fields):
        self.start += len(fields)
        return self.logits[self.start - len(fields) : self.start]


def test_scores_are_those_of_brute_force(small, rng):
    task = make_trainer(SMALL, small, 0).task
    labels = small.read("val", np.arange(300)).labels.numpy()
    logits = np.round(labels + rng.normal(size=300), 1)  # with ties
    scores = task.scores(Table(torch.from_numpy(logits)), "val")
    above = logits[labels == 1][:, None] - logits[labels == 0]
    assert scores["val_auc"] == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())
    likely = 1 / (1 + np.exp(-logits))
    loss = -np.mean(labels * np.log(likely) + (1 - labels) * np.log(1 - likely))
    assert scores["val_logloss"] == pytest.approx(loss)


class Falling:
    """A task whose validation AUC is given, epoch by epoch."""

    epoch_steps = 2

    def __init__(self, task, values):
        self.task, self.values = task, list(values)
        self.batch, self.loss = task.batch, task.loss

    def evaluate(self, model):
        return {"val_auc": self.values.pop(0), "val_logloss": 0.5}


@pytest.mark.parametrize(
    ("values", "best", "epochs"),
    [([0.5, 0.7, 0.6, 0.6, 0.9], 2, 4), ([0.5, 0.6, 0.6, 0.7, 0.8, 0.9], 6, 6), ([0.5, 0.5, 0.5], 1, 3)],
)
def test_stops_early_and_restores_the_best_weights(small, values, best, epochs):
    trainer = make_trainer(SMALL, small, 0)
    trainer.task = Falling(trainer.task, values)
    found = fit(trainer, 6, 2)
    assert (found["best_epoch"], found["epochs"], found["val_auc"]) == (best, epochs, max(values[:epochs]))
    other = make_trainer(SMALL, small, 0)
    other.run(2 * best)
    for a, b in zip(trainer.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("rule", ["dfa", "fdfa"])
@pytest.mark.parametrize("gradient", ["dense", "sparse"])
def test_resumed_run_equals_an_unbroken_one(small, tmp_path, rule, gradient):
    settings = replace(SMALL, learning_rule=rule, gradient=gradient, dropout=0.3)
    whole = make_trainer(settings, small, 0)
    expected = fit(whole, 3, 3)
    first = make_trainer(settings, small, 0)
    fit(first, 2, 3, tmp_path)
    assert len(list_checkpoints(tmp_path)) == 1
    second = make_trainer(settings, small, 0)
    assert fit(second, 3, 3, tmp_path) == expected
    for a, b in zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_a_finished_run_is_not_trained_again(small, tmp_path):
    trainer = make_trainer(SMALL, small, 0)
    scores = fit(trainer, 2, 3, tmp_path)
    again = make_trainer(SMALL, small, 0)
    assert fit(again, 2, 3, tmp_path) == scores
    assert again.finished == trainer.finished


def test_a_checkpoint_of_other_settings_is_refused(small, tmp_path):
    fit(make_trainer(SMALL, small, 0), 1, 3, tmp_path)
    with pytest.raises(UserError, match=r"000024\.tar: trained with lr = 0\.003, and now it is 0\.1; move its folder"):
        fit(make_trainer(replace(SMALL, lr=0.1), small, 0), 1, 3, tmp_path)
    longer = replace(SMALL, epochs=2, patience=1)
    assert fit(make_trainer(longer, small, 0), 2, 1, tmp_path)["epochs"] == 2


def test_seconds_are_those_of_all_parts_of_a_run(small, tmp_path):
    runs = [train(SMALL, 0, tmp_path, small.cache.folder)["seconds"] for _ in range(2)]
    assert runs[0] == runs[1] > 0  # the second has nothing to do


def test_a_seed_gives_the_same_run(small):
    runs = [train(replace(SMALL, epochs=2), 3, None, small.cache.folder) for _ in range(2)]
    for run in runs:
        run.pop("seconds")
    assert runs[0] == runs[1]
    assert [layer["width"] for layer in runs[0]["alignment"]] == [16, 16]


def test_training_that_diverges_is_told(small):
    trainer = make_trainer(replace(SMALL, lr=1e30), small, 0)
    with pytest.raises(UserError, match="training diverged in its first epoch; a lower lr"):
        fit(trainer, 2, 2)


def test_a_part_of_one_label_is_told(tmp_path):
    write_criteo(tmp_path / "train.txt", 100, law=Law(bias=-99.0))
    data = Data(make_cache(Criteo(tmp_path), tmp_path / "cache", 1, quiet=True))
    with pytest.raises(UserError, match="all rows of its val part have label 0; no AUC"):
        fit(make_trainer(SMALL, data, 0), 1, 1)


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """Data in which pairs, and data in which triples of the first categories decide, without other fields."""
    found = {}
    for name, law in (("pair", Law(3.0, 0.0, 0.0, 50, 4)), ("triple", Law(0.0, 3.0, 0.0, 50, 4))):
        folder = tmp_path_factory.mktemp(name)
        write_criteo(folder / "train.txt", 10_000, law=law)
        lines = [line.split("\t") for line in (folder / "train.txt").read_text().splitlines()]
        text = ["\t".join([line[0], *[""] * 13, *line[14:19], *[""] * 21]) for line in lines]
        (folder / "train.txt").write_text("\n".join(text) + "\n")
        found[name] = Data(make_cache(Criteo(folder), folder / "cache", 5, quiet=True))
    return found


@pytest.mark.parametrize(
    ("law", "model", "rule", "low", "high"),
    [
        ("pair", "fm", "bp", 0.9, 1),
        ("pair", "deepfm", "shallow", 0.9, 1),
        ("triple", "fm", "bp", 0.4, 0.6),  # which no sum over pairs can tell
        ("triple", "deepfm", "bp", 0.85, 1),
    ],
)
def test_interactions_are_learnt_by_what_can(decided, law, model, rule, low, high):
    """With log-odds of ± 3 the best AUC is 0.953."""
    settings = replace(SMALL, model=model, learning_rule=rule, lr=2e-2, epochs=6, mlp_width=32, embedding=8, batch=200)
    trainer = make_trainer(settings, decided[law], 0)
    fit(trainer, 6, 6)
    assert low < trainer.task.scores(trainer.model, "test")["test_auc"] < high


def test_alignment_of_bp_is_one_and_rules_are_measured(small):
    for model, layers in (("deepfm", 2), ("dcn", 9), ("afn", 4), ("autoint", 6)):
        trainer = make_trainer(replace(SMALL, model=model, learning_rule="bp"), small, 0)
        trainer.run(2)
        found = trainer.task.alignment(trainer.model).layers
        assert len(found) == layers
        assert all(layer.mean == pytest.approx(1, abs=1e-4) for layer in found.values())


@pytest.mark.parametrize("rule", ["dfa", "dkp", "fdfa", "modular"])
def test_alignment_of_sparse_gradients_is_that_of_dense_ones(small, rule):
    found = []
    for gradient in ("dense", "sparse"):
        trainer = make_trainer(replace(SMALL, learning_rule=rule, gradient=gradient), small, 0)
        torch.manual_seed(1)
        found.append(trainer.task.alignment(trainer.model))
    assert found[1].weights == pytest.approx(found[0].weights, abs=1e-6, nan_ok=True)
    assert [layer.mean for layer in found[1].layers.values()] == [layer.mean for layer in found[0].layers.values()]
