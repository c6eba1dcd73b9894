"""The run folder: what is in it already, and who writes there."""

import shutil

from nerf.runs import one_line

from nerf_dfa.files import alone
from nerf_dfa.nerf import train


def test_no_reload_starts_anew_and_keeps_what_was_there(flags, run):
    assert train.main(flags) == 0
    assert train.main([*flags, "--no_reload", "--seed", "9", "--N_iters", "2"]) == 0
    assert (run / "replaced_001" / "000006.tar").is_file()
    assert [p.name for p in run.glob("*.tar")] == ["000002.tar"]


def test_no_reload_leaves_the_run_where_it_is_until_all_else_is_right(flags, run, capsys):
    assert train.main(flags) == 0
    capsys.readouterr()
    assert train.main([*flags, "--no_reload", "--ft_path", "typo.tar"]) == 2
    assert "typo.tar" in one_line(capsys)
    assert (run / "000006.tar").is_file()
    assert train.main([*flags, "--no_reload", "--ft_path", str(run / "000006.tar"), "--N_iters", "8"]) == 0
    assert (run / "replaced_001" / "000006.tar").is_file()
    assert [p.name for p in run.glob("*.tar")] == ["000008.tar"]


def test_a_run_in_a_folder_of_a_folder(flags, tmp_path):
    assert train.main([*flags, "--expname", "a/b"]) == 0
    assert (tmp_path / "runs" / "a" / "b" / "b_circle_000006_rgb.mp4").is_file()


def test_what_is_put_aside_never_lands_on_what_was(flags, run, tmp_path):
    for _ in range(3):
        assert train.main([*flags, "--no_reload"]) == 0
    shutil.rmtree(run / "replaced_001")
    assert train.main([*flags, "--no_reload"]) == 0
    assert {p.name for p in run.glob("replaced_*")} == {"replaced_002", "replaced_003"}


def test_two_processes_do_not_train_in_one_folder(flags, run, capsys):
    run.mkdir(parents=True)
    with alone(run / ".lock"):
        assert train.main(flags) == 2
    assert "another process is writing here" in one_line(capsys)
    assert not list(run.iterdir())
