"""Scores against a direct computation, runs that stop and go on, and each rule on a text of few words."""

import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers", reason="pip install tokenizers")

from nerf_dfa.errors import UserError
from nerf_dfa.language.data import load_corpus
from nerf_dfa.language.generate import draw, generate, sample
from nerf_dfa.language.settings import Settings
from nerf_dfa.language.task import Run, corpus_of, make_model, score, train
from nerf_dfa.training.checkpoints import list_checkpoints
from nerf_dfa.training.settings import make_settings

CPU = torch.device("cpu")


@pytest.fixture
def settings(tiny):
    return make_settings(Settings, tiny)


def run_of(settings, tmp_path, **changes):
    settings = replace(settings, **changes)
    return Run(settings, corpus_of(settings, tmp_path), 0, CPU)


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.trainer.model.parameters()])


def test_scores_token_by_token(settings, tmp_path, prose):
    run = run_of(settings, tmp_path)
    run.trainer.run(3)
    model, part = run.trainer.model.eval(), run.corpus.parts["val"]
    total = 0.0
    for place in range(1, len(part.tokens)):
        begin = (place - 1) // settings.chunk * settings.chunk
        context = torch.from_numpy(part.tokens[begin:place].astype(np.int64))
        with torch.no_grad():
            total -= model(context[None])[0, -1].double().log_softmax(0)[part.tokens[place]].item()
    text = "".join(prose.splitlines(keepends=True)[1880:1940]).lower()
    expected = {
        "perplexity": math.exp(total / (len(part.tokens) - 1)),
        "word_perplexity": math.exp(total / len(text.split())),
        "bits_per_byte": total / math.log(2) / len(text.encode()),
    }
    assert score(model, part, settings.chunk, 4, CPU) == pytest.approx(expected, rel=1e-5)
    assert score(model, part, settings.chunk, 3, CPU) == pytest.approx(expected, rel=1e-5)


def test_bits_per_byte_of_a_model_that_knows_nothing(settings, tmp_path):
    run = run_of(settings, tmp_path)
    torch.nn.init.zeros_(run.trainer.model.decoder.weight)
    part = run.corpus.parts["test"]
    scores = score(run.trainer.model, part, settings.chunk, 4, CPU)
    assert scores["perplexity"] == pytest.approx(290, rel=1e-5)
    assert scores["bits_per_byte"] == pytest.approx(math.log2(290) * (len(part.tokens) - 1) / part.bytes, rel=1e-5)


@pytest.mark.parametrize("at", [4, 5])  # at a validation, and between two
@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.2},
        {"learning_rule": "dkp", "optimizer": "radam"},
        {"learning_rule": "fdfa", "probe_every": 2, "schedule": "plateau"},
        {"dfa_placement": "micro", "feedback": "hashed", "attention": "random", "schedule": "warmup"},
    ],
    ids=str,
)
def test_a_resumed_run_is_the_unbroken_one(settings, tmp_path, changes, at):
    unbroken = run_of(settings, tmp_path, steps=7, **changes)
    unbroken.fit()
    first = run_of(settings, tmp_path, steps=7, **changes)
    first.trainer.every(1, lambda progress: interrupt(progress.step, at))
    with pytest.raises(KeyboardInterrupt):
        first.fit(tmp_path / "run")
    assert list_checkpoints(tmp_path / "run")[-1].stem == f"{at:06d}"
    second = run_of(settings, tmp_path, steps=7, **changes)
    second.fit(tmp_path / "run")
    assert torch.equal(weights(second), weights(unbroken))
    assert (second.best, second.bad, second.trainer.finished) == (unbroken.best, unbroken.bad, 7)
    if changes.get("schedule") == "plateau":
        assert second.schedule.state() == unbroken.schedule.state()


def interrupt(step, at):
    if step == at:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_that_was_interrupted_can_end_where_it_stands_and_not_before(settings, tmp_path, steps):
    first = run_of(settings, tmp_path, steps=8, evaluate_every=8)
    first.trainer.every(1, lambda progress: interrupt(progress.step, 3))
    with pytest.raises(KeyboardInterrupt):
        first.fit(tmp_path / "run")
    second = run_of(settings, tmp_path, steps=steps, evaluate_every=8)
    if steps < 3:
        with pytest.raises(UserError, match=r"000003\.tar: is of 3 steps, more than steps = 1; move its folder away"):
            second.fit(tmp_path / "run")
    else:
        second.fit(tmp_path / "run")
        assert second.best["best_step"] == 3


def test_a_loss_that_is_no_number_is_no_perplexity(settings, tmp_path):
    run = run_of(settings, tmp_path)
    torch.nn.init.constant_(run.trainer.model.decoder.weight, math.nan)
    run.validate()
    assert all(math.isnan(value) for key, value in run.best.items() if key != "best_step")
    run.task.evaluate = lambda model: {"val_perplexity": 5.0}
    run.validate()
    assert (run.best["val_perplexity"], run.bad) == (5.0, 0)


def test_stops_early_and_keeps_the_best(settings, tmp_path):
    run = run_of(settings, tmp_path, steps=100, stop_after=2, lr=0.5, clip=0.0)
    scores = iter([5.0, 3.0, 4.0, 3.5, 1.0])
    run.task.evaluate = lambda model: {"val_perplexity": next(scores)}
    run.task.scores = lambda model, part: {"test_perplexity": float(run.trainer.finished)}
    run.fit(tmp_path / "run")
    assert run.trainer.finished == 8
    assert run.best == {"val_perplexity": 3.0, "test_perplexity": 4.0, "best_step": 4}
    assert [path.stem for path in list_checkpoints(tmp_path / "run")] == ["000004", "000008"]


@pytest.mark.parametrize("rule", ["bp", "dfa", "dkp", "fdfa", "shallow"])
def test_every_rule_learns(settings, tmp_path, rule):
    changes = dict(learning_rule=rule, steps=60, evaluate_every=60, lr=0.01)
    result = train(replace(settings, **changes), 0, None, tmp_path)
    assert result["val_perplexity"] < 100  # 290 at the start
    assert result["steps"] == 60
    assert len(result["alignment"]) == (0 if rule in ("bp", "shallow") else 2)
    again = train(replace(settings, **changes), 0, None, tmp_path)
    assert again["val_perplexity"] == result["val_perplexity"]
    assert train(replace(settings, **changes), 1, None, tmp_path)["val_perplexity"] != result["val_perplexity"]


def test_a_checkpoint_of_other_settings(settings, tmp_path):
    run_of(settings, tmp_path).fit(tmp_path / "run")
    with pytest.raises(UserError, match=r"000004\.tar: trained with lr = 0\.003, and now it is 0\.1"):
        run_of(settings, tmp_path, steps=8, lr=0.1).fit(tmp_path / "run")


def test_a_checkpoint_of_another_tokenizer(settings, tmp_path, text_file, prose):
    run_of(settings, tmp_path).fit(tmp_path / "run")
    text_file.write_text(prose.replace("cat", "owl"), encoding="utf-8")
    corpus = load_corpus(text_file, 290, True, tmp_path / "other")
    message = (
        r"000004\.tar: trained with the tokenizer \w{16}, and .* is \w{16}; a model cannot read another vocabulary"
    )
    with pytest.raises(UserError, match=message):
        Run(settings, corpus, 0, CPU).fit(tmp_path / "run")
    checkpoint = tmp_path / "run" / "000004.tar"
    other = tmp_path / "other" / "tokens-prose-290-lower" / "tokenizer.json"
    with pytest.raises(UserError, match=message):
        generate(checkpoint, "the", 3, 1.0, 0, other)
    text = generate(checkpoint, "The Cat", 20, 1.0, 0, None)
    assert text.startswith("the cat")
    assert text == generate(checkpoint, "the cat", 20, 1.0, 0, None)
    assert text != generate(checkpoint, "the cat", 20, 1.0, 1, None)


def test_samples_follow_the_model(settings):
    model = make_model(replace(settings, learning_rule="bp", layers=1)).eval()
    start = torch.tensor([0, 5, 6])
    tokens = sample(model, start, 30, 16, 0.0, torch.Generator())
    assert len(tokens) == 33
    for place in (3, 10, 30):
        logits = model(tokens[None, max(0, place - 16) : place])[0, -1]
        assert tokens[place] == logits[1:].argmax() + 1
    logits = torch.tensor([9.0, 0.0, math.log(3)])
    generator = torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.cat([draw(logits, 1.0, generator) for _ in range(2000)]), minlength=3)
    assert counts[0] == 0
    assert counts[2] / 2000 == pytest.approx(0.75, abs=0.04)


@pytest.mark.parametrize("temperature", [1e-40, 1e-300])
def test_a_temperature_of_almost_zero_takes_the_likeliest(temperature):
    logits = torch.tensor([9.0, 88.0, 87.5, -88.0])
    assert draw(logits, temperature, torch.Generator()) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_nothing_is_drawn_of_a_model_that_diverged(temperature, wrong):
    with pytest.raises(UserError, match="the model's logits are not finite; its training diverged"):
        draw(torch.tensor([0.0, wrong, 1.0]), temperature, torch.Generator())


def test_bias_of_the_decoder_can_start_at_frequencies(settings, tmp_path):
    run = run_of(settings, tmp_path, unigram_bias=True)
    tokens = list(run.corpus.parts["train"].tokens)
    bias = run.trainer.model.decoder.bias
    assert bias.exp().sum().item() == pytest.approx(1)
    for token in (0, 5, int(tokens[7])):
        assert bias[token].exp().item() == pytest.approx((tokens.count(token) + 1) / (len(tokens) + 290))


def test_blocks_can_have_a_rate_of_their_own(settings, tmp_path):
    run = run_of(settings, tmp_path, learning_rule="dkp", hidden_rate=0.25, clip=0.0)
    before = {name: p.detach().clone() for name, p in run.trainer.model.named_parameters()}
    run.trainer.step()
    # The first step of Adam is the rate for every number.
    for name, p in run.trainer.model.named_parameters():
        rate = settings.lr * (1.0 if name.startswith(("decoder", "rule")) else 0.25)
        assert (p - before[name]).abs().max().item() == pytest.approx(rate, rel=1e-2), name
