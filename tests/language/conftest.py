"""A text of few words, and settings of a model that learns it in no time."""

import pytest
import torch

WORDS = "the a cat dog film scene plot ends begins never always is was good bad Café naïve".split()


@pytest.fixture(scope="session")
def prose():
    """2,000 lines in which the next word mostly depends on the last."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(2000):
        word = int(torch.randint(len(WORDS), (), generator=generator))
        row = []
        for _ in range(8):
            row.append(WORDS[word])
            word = (word * 5 + 1 + int(torch.randint(3, (), generator=generator))) % len(WORDS)
        rows.append(" ".join(row) + " .\n")
    return "".join(rows)


@pytest.fixture
def text_file(prose, tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text(prose, encoding="utf-8")
    return path


@pytest.fixture
def tiny(text_file):
    """Settings as given to make_settings."""
    return {
        "text": str(text_file),
        "vocabulary": "290",
        "chunk": "16",
        "batch": "4",
        "layers": "2",
        "heads": "2",
        "width": "16",
        "feed_forward": "32",
        "dropout": "0",
        "schedule": "constant",
        "lr": "0.003",
        "steps": "4",
        "evaluate_every": "2",
    }
