import csv
import io
import json
import math
import re

import numpy as np
import pytest

from nerf_dfa.evaluation import published, report
from nerf_dfa.evaluation.metrics import write_metrics
from nerf_dfa.evaluation.published import LLFF_REAL, MEANS, METHODS, NERF_SYNTHETIC, lookup
from nerf_dfa.evaluation.report import main

SIZES = {"netdepth": 4, "netwidth": 128, "netdepth_fine": 8, "netwidth_fine": 256}


def example(**changes):
    metrics = {
        "run": "lego_dfa",
        "scene": "lego",
        "dataset_type": "blender",
        "learning_rule": "dfa",
        "settings": {"netdepth": 8, "netwidth": 256, "lrate": 5e-4},
        "parameters": 595844,
        "steps": 20000,
        "seconds": 3725.0,
        "image_width": 100,
        "image_height": 100,
        "split": "test",
        "views": 25,
        "psnr": 25.125,
        "ssim": 0.8765,
        "lpips": None,
        "lpips_unavailable": "lpips cannot be imported (operator torchvision::nms does not exist)",
        "images": [{"name": "r_0.png", "psnr": 25.125, "ssim": 0.8765, "lpips": None}],
        "dual": False,
        "commit": "abc1234",
        "version": "0.1.0",
        "device": "cpu",
        "seed": 0,
        "torch": "2.13.0",
    }
    return metrics | changes


@pytest.fixture
def run(tmp_path):
    """run(name, **changes): the folder of a run with these metrics."""

    def make(name: str, **changes):
        folder = tmp_path / name
        folder.mkdir()
        write_metrics(folder / "metrics.json", example(run=name, **changes))
        return str(folder)

    return make


def printed(capsys, *argv: str) -> str:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def cells(line: str) -> list[str]:
    assert line.startswith("| ")
    assert line.endswith(" |")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


class TestPublished:
    @pytest.mark.parametrize(("rows", "kind"), [(NERF_SYNTHETIC, "blender"), (LLFF_REAL, "llff")])
    def test_scenes_average_to_the_published_means(self, rows, kind):
        assert len(rows) == 8
        for method, mean in MEANS[kind].items():
            assert np.mean([row.psnr[method] for row in rows]) == pytest.approx(mean, abs=0.0051)
        assert all(list(row.psnr) == list(MEANS[kind]) for row in rows)

    @pytest.mark.parametrize("name", ["trex", "t-rex", "T-Rex", "scenes/nerf_llff_data/trex/"])
    def test_spellings(self, name):
        assert lookup(name).psnr["NeRF DFA"] == 19.43

    def test_lookup(self):
        assert lookup("lego").psnr == {
            "NV": 26.08,
            "SRN": 20.85,
            "LLFF": 24.54,
            "NeRF BP": 32.54,
            "NeRF DFA": 24.93,
        }
        assert lookup("fern", "llff").psnr["NeRF BP"] == 25.17
        assert lookup("room", "blender") is None
        assert lookup("garden") is None

    def test_every_method_has_a_source(self):
        assert set(published.SOURCES) == set(METHODS)

    def test_notes(self):
        said = " ".join(published.notes(lookup("lego"), "NeRF DFA"))
        assert "4 layers of 128" in said
        assert "measures 22.6 dB" in said
        assert "24.93" in said
        assert published.notes(lookup("lego"), "NeRF BP") == []
        assert any("one view" in note for note in published.notes(lookup("fern"), "NeRF DFA"))


class TestMarkdown:
    def test_row(self, capsys, run):
        lines = printed(capsys, run("lego_dfa")).splitlines()
        header, rule, row = lines[:3]
        assert len(cells(header)) == len(cells(rule.replace("|", "| ").replace("  ", " ").strip())) == 17
        assert [re.sub(r" \(.*", "", cell) for cell in cells(header)] == [
            *["run", "scene", "learning rule", "field", "parameters", "steps", "time", "resolution", "views"],
            *["PSNR", "SSIM", "LPIPS", "NV", "SRN", "LLFF", "NeRF BP", "NeRF DFA"],
        ]
        assert cells(row)[:11] == [
            *["lego_dfa", "lego", "dfa", "mlp 8x256", "595,844", "20,000", "1 h 02 min", "100x100", "25"],
            *["25.12", "0.876"],
        ]
        assert cells(row)[11].startswith("- (")
        assert cells(row)[12:16] == ["26.08", "20.85", "24.54", "32.54"]
        assert cells(row)[16].startswith("24.93 (")

    def test_every_mark_has_its_footnote(self, capsys, run):
        text = printed(
            capsys,
            run("a"),
            run("b", scene="fern", dataset_type="llff", lpips_unavailable="another reason"),
            run("c", lpips_unavailable="another reason"),
        )
        table, notes = text.split("\n\n")
        marks = set(re.findall(r" (\(\d+\))", table))
        numbered = {line.split(" ", 1)[0]: line for line in notes.splitlines()}
        assert marks == set(numbered)
        assert len(numbered) == 6  # resolution, two reasons, size of DFA, lego measured, LLFF's one view
        assert any("torchvision::nms" in note for note in numbered.values())
        assert any("800x800" in note for note in numbered.values())

    def test_all_rows_have_the_same_cells(self, capsys, run):
        text = printed(
            capsys,
            run("plain"),
            run("pipe|name", scene="my|scene", dataset_type="llff"),
            run("bp", learning_rule="bp"),
        )
        assert {len(cells(line)) for line in text.splitlines() if line.startswith("| ")} == {17}
        assert "pipe\\|name" in text

    def test_own_scenes_have_no_published_columns(self, capsys, run):
        text = printed(capsys, run("a", scene="garden", lpips=0.25), run("b", scene="lego", dataset_type="llff"))
        assert "NeRF" not in text
        assert "800x800" not in text
        assert " 0.250 " in text

    def test_nothing_to_explain(self, capsys, run):
        text = printed(capsys, run("a", scene="garden", lpips=0.25))
        assert len(text.splitlines()) == 3

    def test_infinite_psnr_and_missing_ssim(self, capsys, run):
        text = printed(capsys, run("a", psnr=math.inf, ssim=None, split="train"))
        row = cells(text.splitlines()[2])
        assert row[9].startswith("inf (")
        assert row[10].startswith("- (")
        assert row[8].startswith("25 (")
        assert 'split "train"' in text

    @pytest.mark.parametrize(
        ("settings", "shown"),
        [
            ({"field": "grid", "netdepth": 8, "netwidth": 256}, "grid"),
            ({"field": "mlp", "netdepth": 4, "netwidth": 128}, "mlp 4x128"),
            ({}, "-"),
            (SIZES | {"N_importance": 0}, "mlp 4x128"),
            (SIZES | {"N_importance": 64}, "mlp 4x128 + 8x256"),
            (SIZES | {"N_importance": 64, "netdepth_fine": 4, "netwidth_fine": 128}, "mlp 4x128"),
        ],
    )
    def test_field_from_settings(self, capsys, run, settings, shown):
        assert cells(printed(capsys, run("a", settings=settings)).splitlines()[2])[3] == shown

    def test_field_in_words(self, capsys, run):
        text = printed(capsys, run("a", field="grid 16/32/64 + 1x64"))
        assert cells(text.splitlines()[2])[3] == "grid 16/32/64 + 1x64"

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [
            (0.4, "0 s"),
            (59.4, "59 s"),
            (59.7, "1 min"),
            (3570, "1 h 00 min"),
            (7261, "2 h 01 min"),
            (90, "2 min"),
        ],
    )
    def test_time(self, capsys, run, seconds, shown):
        assert cells(printed(capsys, run("a", seconds=seconds)).splitlines()[2])[6] == shown


class TestMeans:
    def test_mean_per_rule(self, capsys, run):
        text = printed(
            capsys,
            run("a", psnr=20.0, ssim=0.5, lpips=0.2),
            run("bp", learning_rule="bp"),
            run("b", scene="ship", psnr=30.0, ssim=0.75, lpips=None),
            "--format=csv",
        )
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["run"] for row in rows] == ["a", "bp", "b", "mean of 2 runs"]
        mean = rows[-1]
        assert mean["learning_rule"] == "dfa"
        assert float(mean["psnr"]) == 25
        assert float(mean["ssim"]) == 0.625
        assert mean["lpips"] == mean["scene"] == ""
        assert mean["steps"] == "20000"
        assert mean["parameters"] == "595844"
        assert float(mean["NeRF BP"]) == pytest.approx((32.54 + 28.65) / 2)

    def test_runs_of_other_lengths_have_no_mean(self, capsys, run):
        text = printed(capsys, run("a"), run("b", steps=300), run("c", steps=300), "--format=csv")
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [(row["run"], row["steps"]) for row in rows[3:]] == [("mean of 2 runs", "300")]

    def test_dual_is_a_rule_of_its_own(self, capsys, run):
        text = printed(capsys, run("a"), run("b", dual=True), "--format=csv")
        assert [row["learning_rule"] for row in csv.DictReader(io.StringIO(text))] == ["dfa", "dfa, dual"]

    def test_published_mean_needs_all_scenes(self, capsys, run):
        text = printed(capsys, run("a"), run("b", scene="garden"), "--format=csv")
        mean = list(csv.DictReader(io.StringIO(text)))[-1]
        assert mean["psnr"] == "25.125"
        assert mean["NeRF DFA"] == ""


class TestCsv:
    def test_values_come_back(self, capsys, run):
        name = 'odd, "name"'
        rows = list(csv.DictReader(io.StringIO(printed(capsys, run(name), "--format", "csv"))))
        (row,) = rows
        assert row["run"] == name
        assert float(row["psnr"]) == 25.125
        assert float(row["seconds"]) == 3725
        assert int(row["steps"]) == 20000
        assert row["resolution"] == "100x100"
        assert row["lpips"] == ""
        assert float(row["SRN"]) == 20.85
        for said in ("torchvision::nms", "800x800", "4 layers of 128", "22.6 dB"):
            assert row["notes"].count(said) == 1


class TestLatex:
    def test_specials_are_escaped(self, capsys, run):
        text = printed(capsys, run("lego_dfa_50%&#${}~^\\", scene="gar_den", lpips=0.1), "--format", "latex")
        assert r"lego\_dfa\_50\%\&\#\$\{\}\textasciitilde{}\textasciicircum{}\textbackslash{} & gar\_den" in text

    def test_structure(self, capsys, run):
        text = printed(capsys, run("a_b"), run("c_d", learning_rule="bp"), "--format=latex")
        table, notes = text.split("\n\n")
        columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", table)[1]
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert len(rows) == 3
        assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(columns)} == {17}
        assert table.count(r"\hline") == 3
        assert r"\footnotesize" in notes
        assert not re.search(r"(?<!\\)[_%#&]", notes)


class TestOutput:
    def test_file(self, capsys, run, tmp_path):
        folder = run("a")
        expected = printed(capsys, folder)
        assert printed(capsys, folder, "--out", str(tmp_path / "table.md")) == ""
        assert (tmp_path / "table.md").read_text() == expected

    @pytest.mark.parametrize("out", ["missing/table.md", "folder", "."])
    def test_place_that_cannot_be_written(self, capsys, run, tmp_path, monkeypatch, out):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "folder").mkdir()
        assert main([run("a"), "--out", out]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert err.startswith(f"{out}: cannot be written")


class TestMistakes:
    def error(self, capsys, *argv: str) -> str:
        assert main(argv) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        return err

    def test_no_run(self, capsys, run, tmp_path):
        err = self.error(capsys, str(tmp_path / "nowhere"))
        assert err.startswith(f"{tmp_path}/nowhere/metrics.json: no such file")

    def test_a_run_without_a_report_is_named_and_left_out(self, capsys, run, tmp_path):
        assert main([run("good"), str(tmp_path / "nowhere"), run("fine")]) == 0
        out, err = capsys.readouterr()
        assert "good" in out
        assert "fine" in out
        assert err == f"{tmp_path}/nowhere/metrics.json: no such file; left out\n"

    def test_matrix_products_of_less_precision_are_said(self, capsys, run):
        assert "Matrix products in bf16" in printed(capsys, run("a", settings={"precision": "bf16"}))

    def test_a_file_instead_of_a_folder(self, capsys, run, tmp_path):
        assert main([run("good") + "/metrics.json"]) == 0  # a report may have another name
        assert "good" in capsys.readouterr().out
        (tmp_path / "note.txt").write_text("no run")
        assert "no such file" in self.error(capsys, str(tmp_path / "note.txt"))

    @pytest.mark.parametrize("text", ["", "{", '{"psnr": NaN}', '{"a": 1}\n{"a": 2}', "[" * 100_000, "\udcff\udcfe"])
    def test_broken_json(self, capsys, tmp_path, text):
        (tmp_path / "metrics.json").write_text(text, encoding="utf-8", errors="surrogateescape")
        assert f"{tmp_path}/metrics.json: not valid JSON" in self.error(capsys, str(tmp_path))

    def test_json_of_another_kind(self, capsys, tmp_path):
        (tmp_path / "metrics.json").write_text("[1, 2]")
        assert "expected a JSON object, found list" in self.error(capsys, str(tmp_path))

    @pytest.mark.parametrize("key", sorted(report.REQUIRED))
    def test_missing_key(self, capsys, tmp_path, key):
        metrics = example()
        del metrics[key]
        write_metrics(tmp_path / "metrics.json", metrics)
        err = self.error(capsys, str(tmp_path))
        assert err.startswith(f'{tmp_path}/metrics.json: the key "{key}" is missing')

    @pytest.mark.parametrize(
        ("key", "value"), [("psnr", "25.1"), ("steps", 1.5), ("views", True), ("dual", 1), ("settings", None)]
    )
    def test_wrong_type(self, capsys, run, key, value):
        assert f'"{key}" should be ' in self.error(capsys, run("bad", **{key: value}))

    def test_unknown_format(self, capsys, run):
        with pytest.raises(SystemExit) as caught:
            main([run("a"), "--format", "html"])
        assert caught.value.code == 2


def test_the_example_is_what_json_keeps():
    assert json.loads(json.dumps(example())) == example()
