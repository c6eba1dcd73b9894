import pytest
from experiments.trials import STUDY

from nerf_dfa.experiments.__main__ import main


@pytest.fixture
def study(tiny_scene, tmp_path):
    """Writes the study; replacements: what stands in place of what."""

    def write(figure="dots", **replacements):
        text = STUDY.format(figure=figure, scene=tiny_scene.name)
        for old, new in replacements.items():
            text = text.replace(old, new)
        path = tmp_path / "trial.txt"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def run(tiny_scene, tmp_path, capsys):
    def run(path, *arguments):
        flags = ["gap", "--config", str(path), "--datadir", str(tiny_scene.parent), "--out", str(tmp_path / "out")]
        status = main([*flags, *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run
