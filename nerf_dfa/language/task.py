"""Next tokens for the shared trainer, scores of a text, and one whole training run from its settings."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nerf_dfa.errors import UserError
from nerf_dfa.language.data import TOKENIZER, Chunks, Corpus, Part, load_corpus, windows
from nerf_dfa.language.model import Transformer
from nerf_dfa.language.optimizers import Plateau, make_optimizer, warmup
from nerf_dfa.language.projection import Hashed
from nerf_dfa.language.settings import RANDOM_FEEDBACK, Settings
from nerf_dfa.language.tokenizer import BytePairs, check_same
from nerf_dfa.learning.alignment import Alignment, measure_alignment
from nerf_dfa.learning.feedback import SharedFeedback
from nerf_dfa.learning.rules import DirectFeedback
from nerf_dfa.training import Trainer
from nerf_dfa.training.checkpoints import check_settings, entry, list_checkpoints, load_checkpoint, load_weights
from nerf_dfa.training.devices import choose_device
from nerf_dfa.training.schedules import Schedule
from nerf_dfa.training.trainer import ModelCodec

ALIGNMENT_CHUNKS = 8  # of the validation part

_corpus = lru_cache(maxsize=1)(load_corpus)  # many runs of one process have the same text


class LanguageTask:
    """Mean cross entropy of the next token, over all positions of the chunks of a step."""

    def __init__(self, corpus: Corpus, chunk: int, batch: int, seed: int, device: torch.device, where: str) -> None:
        self.corpus, self.chunk, self.size, self.device = corpus, chunk, batch, device
        self.chunks = Chunks(corpus.parts["train"].tokens, chunk, batch, seed, where)

    def batch(self, step: int, generator: torch.Generator) -> Int[Tensor, "batch chunk_and_1"]:
        return self.chunks.of_step(step).to(self.device)

    def loss(
        self, model: nn.Module, batch: Int[Tensor, "batch chunk_and_1"], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return cross_entropy(model, batch).mean(), {}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return self.scores(model, "val")

    def scores(self, model: nn.Module, part: str) -> dict[str, float]:
        """Perplexity per token and per word, and bits per byte, of the part."""
        scores = score(model, self.corpus.parts[part], self.chunk, self.size, self.device)
        return {f"{part}_{name}": value for name, value in scores.items()}

    def alignment(self, model: nn.Module) -> Alignment:
        """Of every feedback point, in eval mode, for the first chunks of the validation part: always the same."""
        model.eval()
        batch = next(windows(self.corpus.parts["val"].tokens, self.chunk, ALIGNMENT_CHUNKS)).to(self.device)
        return measure_alignment(model, lambda: cross_entropy(model, batch).mean())


def cross_entropy(model: nn.Module, batch: Int[Tensor, "rows tokens_and_1"]) -> Float[Tensor, " predicted"]:
    """Of every token but each row's first, in nats."""
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")


@torch.no_grad()
def score(model: nn.Module, part: Part, chunk: int, batch: int, device: torch.device) -> dict[str, float]:
    """Perplexity of the part's tokens; of its words, and bits per byte, by which different tokenizers compare.

    Every token is predicted once, from those before it in its chunk.
    """
    model.eval()
    total = 0.0
    for rows in windows(part.tokens, chunk, batch):
        total += cross_entropy(model, rows.to(device)).double().sum().item()
    return {
        "perplexity": _exp(total / (len(part.tokens) - 1)),
        "word_perplexity": _exp(total / part.words),
        "bits_per_byte": total / part.bytes / math.log(2),
    }


def _exp(x: float) -> float:
    return math.inf if x >= 700 else math.exp(x)


def make_model(settings: Settings) -> Transformer:
    """Drawn from torch's global generator."""
    s, shape = settings, settings.shape()
    if s.learning_rule == "dfa" and s.feedback == "hashed":
        feedback = SharedFeedback(Hashed(shape.error_width, max(shape.points), s.feedback_buckets), "none")
        return Transformer(shape, DirectFeedback(feedback))
    options: dict[str, Any] = {}
    if s.learning_rule in RANDOM_FEEDBACK:
        options = {"feedback": s.feedback, **({"k": s.feedback_entries} if s.feedback == "sparse" else {})}
    elif s.learning_rule == "fdfa":
        options = {"every": s.probe_every, "average": s.average}
    return Transformer(shape, s.learning_rule, **options)


def log_frequencies(corpus: Corpus) -> Float[Tensor, " vocabulary"]:
    """Of the training part's tokens, each counted once more than it occurs."""
    counts = np.bincount(corpus.parts["train"].tokens, minlength=corpus.tokenizer.size) + 1.0
    return torch.from_numpy(np.log(counts / counts.sum()))


def groups_of(model: Transformer, hidden_rate: float) -> list[dict[str, Any]]:
    """The optimiser's: what is below the decoder, and the decoder with what the feedback learns."""
    top = [*model.decoder.parameters(), *model.rule.parameters()]
    known = {id(p) for p in top}
    hidden = [p for p in model.parameters() if id(p) not in known]
    return [{"params": hidden, "rate_scale": hidden_rate}, {"params": top}]


def make_schedule(settings: Settings) -> Schedule:
    if settings.schedule == "warmup":
        return warmup(settings.factor, settings.width, settings.warmup)
    return Plateau(settings.lr) if settings.schedule == "plateau" else lambda finished: settings.lr


class Run:
    """A training run that can stop anywhere and go on: the trainer, and what happened at the validations.

    best: scores, and the step, of the best validation so far; bad: validations since.
    """

    def __init__(self, settings: Settings, corpus: Corpus, seed: int, device: torch.device) -> None:
        s = self.settings = settings
        self.corpus = corpus
        self.task = LanguageTask(corpus, s.chunk, s.batch, seed, device, s.text)
        torch.manual_seed(seed)
        model = make_model(s).to(device)
        if s.unigram_bias:
            model.decoder.bias.data.copy_(log_frequencies(corpus))
        optimizer = make_optimizer(s.optimizer, groups_of(model, s.hidden_rate), s.beta2, s.clip, model.network())
        self.schedule = make_schedule(s)
        self.best: dict[str, float | int] = {}
        self.bad = 0
        codec = ModelCodec(self._entries, self._load)
        generator = torch.Generator().manual_seed(seed)
        self.trainer = Trainer(model, self.task, optimizer, self.schedule, generator, codec=codec)

    def fit(self, folder: Path | None = None) -> None:
        """Trains to the end, from the folder's newest checkpoint if there is one; leaves it those of best and last.

        Raises KeyboardInterrupt when Ctrl-C ended the training; a checkpoint is written before.
        """
        s, trainer = self.settings, self.trainer
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if checkpoints := list_checkpoints(folder):
                self._go_on(checkpoints[-1])
            self.corpus.tokenizer.save(folder / TOKENIZER)
        while not self.finished:
            end = min((trainer.finished // s.evaluate_every + 1) * s.evaluate_every, s.steps)
            whole = trainer.run(end)
            if trainer.finished == end:  # even if interrupted just then
                self.validate()
            if folder is not None:
                self._keep(folder)
            if not whole:
                raise KeyboardInterrupt

    def _go_on(self, path: Path) -> None:
        s, trainer = self.settings, self.trainer
        trainer.load(path)
        if trainer.finished > s.steps:
            raise UserError(
                f"{path}: is of {trainer.finished} steps, more than steps = {s.steps}; move its folder away, or give "
                "more --steps"
            )
        if trainer.finished == s.steps and s.steps % s.evaluate_every:  # it may have been begun for more steps
            self.validate()

    @property
    def finished(self) -> bool:
        s = self.settings
        return self.trainer.finished >= s.steps or bool(s.stop_after and self.bad >= s.stop_after)

    def validate(self) -> None:
        """Scores the validation part, and the test part where this is the best validation."""
        scores = self.task.evaluate(self.trainer.model)
        if isinstance(self.schedule, Plateau):
            self.schedule.observe(scores["val_perplexity"])
        self.bad += 1
        best = self.best.get("val_perplexity", math.nan)
        if not self.best or scores["val_perplexity"] < (math.inf if math.isnan(best) else best):
            test = self.task.scores(self.trainer.model, "test")
            self.best, self.bad = {**scores, **test, "best_step": self.trainer.finished}, 0

    def _keep(self, folder: Path) -> None:
        self.trainer.save(folder)
        for path in list_checkpoints(folder):
            if int(path.stem) not in (self.trainer.finished, self.best.get("best_step")):
                path.unlink()

    def _entries(self) -> dict[str, Any]:
        state = self.schedule.state() if isinstance(self.schedule, Plateau) else {}
        return {
            "model_state_dict": self.trainer.model.state_dict(),
            "settings": asdict(self.settings),
            "tokenizer": self.corpus.tokenizer.fingerprint,
            "validations": {"best": self.best, "bad": self.bad, "schedule": state},
        }

    def _load(self, contents: dict[str, Any], path: Path) -> None:
        check_same(self.corpus.tokenizer, entry(contents, "tokenizer", path), path, Path(self.settings.text))
        check_settings(self.settings, contents, path, ("text", "steps"))
        load_weights(self.trainer.model, entry(contents, "model_state_dict", path), str(path))
        validations = entry(contents, "validations", path)
        self.best, self.bad = validations["best"], validations["bad"]
        if isinstance(self.schedule, Plateau):
            self.schedule.load(validations["schedule"])


def corpus_of(settings: Settings, out: Path) -> Corpus:
    """The settings' text in tokens; they are kept in `out`."""
    return _corpus(Path(settings.text), settings.vocabulary, settings.lower_case, out)


def train(settings: Settings, seed: int, folder: Path | None, out: Path, device: str = "cpu") -> dict[str, Any]:
    """One run: scores at the best validation, alignment of every feedback point at the end, seconds of the steps.

    folder: where checkpoints go, and where an interrupted run goes on from.
    """
    run = Run(settings, corpus_of(settings, out), seed, choose_device(device))
    run.fit(folder)
    trainer = run.trainer
    direct = settings.learning_rule not in ("bp", "shallow")
    layers = run.task.alignment(trainer.model).layers.values() if direct else []
    alignment = [{"mean": layer.mean, "std": layer.std, "null_std": layer.null_std} for layer in layers]
    seconds = {"seconds": round(trainer.seconds, 1), "step_ms": round(1e3 * trainer.seconds / trainer.finished, 1)}
    return {**run.best, "steps": trainer.finished, "alignment": alignment, **seconds}


def load_model(path: Path, tokenizer: BytePairs, where: Path) -> Transformer:
    """The model of a checkpoint. Raises UserError for one of another tokenizer than that of the file `where`."""
    contents = load_checkpoint(path)
    check_same(tokenizer, entry(contents, "tokenizer", path), path, where)
    try:
        settings = Settings(**entry(contents, "settings", path))
    except TypeError as error:
        raise UserError(f"{path}: its settings are not of this version ({error})") from None
    model = make_model(settings)
    load_weights(model, entry(contents, "model_state_dict", path), str(path))
    return model.eval()
