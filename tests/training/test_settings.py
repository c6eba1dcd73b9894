"""Settings from text: kinds, limits, and what a run would not read."""

import argparse
from dataclasses import dataclass

import pytest

from nerf_dfa.errors import UserError
from nerf_dfa.training.settings import add_flags, given_flags, make_settings, read_config, setting


@dataclass(frozen=True)
class Settings:
    model: str = setting("gcn", "the network", choices=("gcn", "gat"))
    lr: float = setting(0.01, "a rate, 50% of it", low=1e-12)
    dropout: float = setting(0.0, "a share", low=0, below=1, when=(lambda s: s.model == "gat", "only gat drops"))
    steps: int = setting(10, "how many", low=1)
    wide: bool = setting(False, "or narrow")
    name: str = setting("", "of the run")

    def __post_init__(self) -> None:
        if self.wide and self.steps > 100:
            raise UserError("wide = True: at most 100 steps")


def test_values_have_their_kinds():
    text = {"model": "gat", "lr": "1e-3", "dropout": "0.5", "steps": "7", "wide": "True", "name": "a b"}
    assert make_settings(Settings, text) == Settings("gat", 1e-3, 0.5, 7, True, "a b")
    assert make_settings(Settings, {}) == Settings()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "gin"}, "model = gin: expected one of gcn, gat"),
        ({"wide": "yes"}, "wide = yes: expected one of False, True"),
        ({"lr": "fast"}, "lr = fast: expected a number, at least 1e-12"),
        ({"lr": "inf"}, "lr = inf: expected a number"),
        ({"lr": "nan"}, "lr = nan: expected a number"),
        ({"steps": "2.5"}, "steps = 2.5: expected a whole number, at least 1"),
        ({"model": "gat", "dropout": "1"}, "dropout = 1: expected a number, at least 0 and below 1"),
        ({"dropout": "0.5"}, "dropout has no effect here: only gat drops; leave it out"),
        ({"wide": "True", "steps": "101"}, "wide = True: at most 100 steps"),
    ],
)
def test_mistakes_name_the_file(given, message):
    with pytest.raises(UserError) as error:
        make_settings(Settings, given, "some.txt")
    assert str(error.value).startswith(f"some.txt: {message}")


def test_config_and_flags(tmp_path):
    (tmp_path / "a.txt").write_text("# of a test\nlr = 0.5  # half\n\nwide = True\n")
    stated = read_config(tmp_path / "a.txt", Settings)
    assert stated == {"lr": "0.5", "wide": "True"}
    parser = argparse.ArgumentParser()
    add_flags(parser, Settings)
    assert "50% of it" in parser.format_help()
    given = given_flags(parser.parse_args(["--lr", "0.1"]), Settings)
    assert make_settings(Settings, stated | given) == Settings(lr=0.1, wide=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 1\nlr = 2\n", "its key stands there twice"),
        ("lrr = 1\n", "unknown key 'lrr'; there are model, lr,"),
        ("lr\n", "'lr' is not 'key = value'"),
    ],
)
def test_a_wrong_config_is_named(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError) as error:
        read_config(tmp_path / "a.txt", Settings)
    assert message in str(error.value)
    assert "a.txt" in str(error.value)


def test_a_default_outside_its_choices_is_a_mistake_of_the_program():
    with pytest.raises(ValueError, match="not among the choices"):
        setting("gin", "the network", choices=("gcn",))
