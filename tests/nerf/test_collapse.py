import json
import re

import pytest
import torch

from nerf_dfa.nerf import collapse, render, train, trainer
from nerf_dfa.nerf.collapse import CHECK_EVERY, EARLY, FALLEN, MEDIAN_OF, RESTARTS, Collapsed, Course, seed_of, watch
from nerf_dfa.training import Progress, Trainer
from nerf_dfa.training.checkpoints import load_checkpoint


def scalars(contrast=1.0, loss=0.1, psnr=10.0):
    return {"contrast": torch.tensor(contrast), "loss": torch.tensor(loss), "psnr": torch.tensor(psnr)}


class FakeTrainer(Trainer):
    def __init__(self):
        self.called = {}

    def every(self, steps, hook):
        self.called[steps] = hook

    def hook(self, progress):
        for steps, hook in self.called.items():
            if progress.step % steps == 0:
                hook(progress)

    def show(self, contrasts):
        for number, contrast in enumerate(contrasts, 1):
            step = number * CHECK_EVERY
            self.hook(Progress(step, 0.0, scalars(contrast)))


def watched(**options):
    fake = FakeTrainer()
    watch(fake, **options)
    return fake


@pytest.mark.parametrize(
    "contrasts",
    [
        [0.0, 0.5, 0.9, 1.0],  # uniform in the very first steps
        [0.02, 0.009, 0.012, 0.009, 0.02, 0.1],  # slow
        [0.3, 1e-6, 0.3, 1e-6, 0.3],  # never twice running
        [0.3, float("nan"), float("inf"), float("nan")],  # photographs without contrast
    ],
)
def test_what_is_no_collapse(contrasts):
    watched().show(contrasts)


def test_two_uniform_pictures_running_are():
    with pytest.raises(Collapsed, match="step 150 all pixels have one colour"):
        watched().show([0.3, 1e-4, 1e-6, 0.9])


def test_late_ones_are_collapses_where_they_are_asked_for():
    late = [0.9] * (EARLY // CHECK_EVERY) + [0.0] * 2
    with pytest.raises(Collapsed, match=f"step {EARLY + 2 * CHECK_EVERY} all pixels have one colour"):
        watched().show(late)
    watched(until=EARLY).show(late)


@pytest.mark.parametrize("step", [50, 20_000])
@pytest.mark.parametrize("loss", ["nan", "inf"])
def test_a_loss_that_is_no_number_is_one_whenever(step, loss):
    with pytest.raises(Collapsed, match=f"step {step} the loss is no finite number"):
        watched().hook(Progress(step, 0.0, scalars(loss=float(loss))))


def test_the_last_loss_is_looked_at_wherever_the_run_ends():
    fake, loss = watched(), scalars(loss=float("nan"))
    fake.hook(Progress(73, 0.0, loss))
    with pytest.raises(Collapsed, match="step 73 the loss is no finite number"):
        fake.hook(Progress(73, 0.0, loss, last=True))


def test_a_run_whose_weights_are_no_numbers_at_the_end_says_so_in_one_line(flags, capsys):
    assert train.main([*flags, "--lrate", "1e30", "--i_img", "0"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("train.py: error: collapsed: at step")
    assert "the loss is no finite number" in last


def course_of(values):
    course = Course()
    for number, value in enumerate(values, 1):
        course.add(float(value), 50 * number)
    return course


@pytest.mark.parametrize(
    "values",
    [
        [],
        [30.0] * (MEDIAN_OF - 1),  # too few
        [*range(10, 30)],
        [20.0, 28.0] * 20,  # batches differ
        [25.0] * 30 + [20.0] * (MEDIAN_OF // 2 - 1),  # a few bad ones
        [25.0] * 30 + [25.1 - FALLEN] * 30,
    ],
)
def test_what_is_no_fall(values):
    assert course_of(values).fall() == 0


def test_a_fall_is_counted_from_the_best_median():
    course = course_of([*range(10, 22)] + [21.0] * 20 + [99.0] * 3 + [13.0] * 30)
    assert course.fall() == pytest.approx(21.0 - 13.0)
    assert (course.best, course.best_step) == (21.0, 50 * 17)


def test_training_that_falls_says_so(tiny_scene, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "watch", lambda _: course_of([20.0] * 20 + [10.0] * 10))
    flags = ["--datadir", str(tiny_scene), "--basedir", str(tmp_path), "--expname", "fallen", *SMALL, "--N_iters", "2"]
    assert train.main(flags) == 0
    said = capsys.readouterr()
    assert "10.0 dB below the 20.0 dB that it had at step 500: a lower --lrate" in said.out + said.err


def test_attempts_have_seeds_of_their_own():
    seeds = [seed_of(seed, attempt) for seed in range(100) for attempt in range(5)]
    assert len(set(seeds)) == len(seeds)
    assert seed_of(7, 0) == 7


SMALL = (
    "--white_bkgd --netdepth 2 --netwidth 16 --multires 4 --N_samples 8 --N_rand 32 --N_iters 40 --i_weights 0 "
    "--frames 2 --i_img 0 --lrate 1e-3 --device cpu --precision fp32 --density_activation relu --output_bias mean"
).split()


@pytest.fixture
def broken_at_first(monkeypatch):
    """The first `count` models are empty everywhere, and stay so: the raw density is far below zero."""

    def break_first(count):
        build, made = trainer.build_model, []

        def build_broken(options, box):
            model = build(options, box)
            made.append(model)
            if len(made) <= count:
                model.coarse.start_at = lambda colour: model.coarse.output_biases()[1].data.fill_(-1e3)
            return model

        monkeypatch.setattr(trainer, "build_model", build_broken)
        monkeypatch.setattr(collapse, "CHECK_EVERY", 10)  # what is broken so is seen sooner
        monkeypatch.setattr(collapse, "CHECK_FIRST", 20)

    return break_first


@pytest.mark.parametrize("fine", ["0", "8"])  # a fine network that learns does not hide a coarse one that is empty
def test_a_collapsed_run_begins_anew(tiny_scene, tmp_path, broken_at_first, capsys, fine):
    broken_at_first(2)
    flags = ["--datadir", str(tiny_scene), "--basedir", str(tmp_path), "--expname", "anew", *SMALL]
    flags += ["--N_importance", fine, "--density_activation", "softplus"]
    assert train.main(flags) == 0
    said = capsys.readouterr()
    assert "number 1 of at most 9" in said.out + said.err
    assert "number 2 of at most 9" in said.out + said.err
    metrics = json.loads((tmp_path / "anew" / "metrics.json").read_text())
    assert (metrics["restarts"], metrics["seed"], metrics["steps"]) == (2, 0, 40)


def test_a_collapsed_run_that_began_from_a_checkpoint_does_not_begin_from_nothing(tiny_scene, tmp_path, capsys):
    flags = ["--datadir", str(tiny_scene), "--basedir", str(tmp_path), *SMALL]
    assert train.main([*flags, "--expname", "a", "--N_iters", "2"]) == 0
    contents = load_checkpoint(tmp_path / "a" / "000002.tar")
    contents["network_fn_state_dict"]["pts_linears.0.bias"].fill_(float("nan"))
    contents["restarts"] = 1  # before the checkpoint, which is no matter
    torch.save(contents, tmp_path / "broken.tar")
    assert train.main([*flags, "--expname", "b", "--ft_path", str(tmp_path / "broken.tar")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"train.py: error: .* having begun from {tmp_path}/broken.tar; try a lower --lrate", error)


def test_one_that_always_collapses_ends_in_one_line(tiny_scene, tmp_path, broken_at_first, capsys):
    broken_at_first(RESTARTS + 1)
    flags = ["--datadir", str(tiny_scene), "--basedir", str(tmp_path), "--expname", "never", *SMALL]
    assert train.main(flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("train.py: error: collapsed: at step ")
    assert "--density_activation softplus" in error


def test_views_that_are_no_numbers_are_an_error_of_one_line(flags, run, capsys):
    assert train.main(flags) == 0
    path = sorted(run.glob("*.tar"))[-1]
    contents = load_checkpoint(path)
    next(iter(contents["network_fn_state_dict"].values())).fill_(float("nan"))
    torch.save(contents, path)
    capsys.readouterr()
    assert render.main(["--run", str(run)]) == 2
    assert re.search(r"error: the image holds values that are not numbers", capsys.readouterr().err.splitlines()[-1])
