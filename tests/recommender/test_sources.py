"""Data sets' files, read a second time row by row in plain Python, and each way a file can be wrong."""

import math
from datetime import date

import numpy as np
import pytest

from nerf_dfa.errors import UserError
from nerf_dfa.recommender import text
from nerf_dfa.recommender.avazu import HEADER, Avazu
from nerf_dfa.recommender.criteo import Criteo, log_squared
from nerf_dfa.recommender.movielens import MovieLens
from nerf_dfa.recommender.synthetic import Law, criteo_text, draw


def whole(source, file=0):
    """All keys and labels of a file."""
    parts = list(source.rows(file))
    return np.concatenate([p.keys for p in parts]), np.concatenate([p.labels for p in parts])


def same_partition(keys, values):
    """Whether two columns are equal in the same rows."""
    return len(set(zip(keys.tolist(), values, strict=True))) == len(set(keys.tolist())) == len(set(values))


def slow_criteo(path):
    for line in path.read_text().splitlines():
        label, *cells = line.split("\t")
        numbers = []
        for cell in cells[:13]:
            value = int(cell) if cell else None
            numbers.append(math.floor(math.log(value) ** 2) if value is not None and value > 2 else cell and value - 2)
        yield int(label), numbers + cells[13:]


@pytest.mark.parametrize("block", [1000, 1 << 23])
def test_criteo_is_what_plain_python_reads(clicks, monkeypatch, block):
    monkeypatch.setattr(text, "BLOCK", block)
    keys, labels = whole(Criteo(clicks))
    expected = list(slow_criteo(clicks))
    assert labels.tolist() == [label for label, _ in expected]
    for field in range(39):
        assert same_partition(keys[:, field], [values[field] for _, values in expected])


def test_the_criteo_sample_is_what_plain_python_reads(data):
    folder = data / "criteo_sample"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    source = Criteo(folder)
    assert source.parts == ("train", "val", "test")
    for file, rows in enumerate((7200, 409, 391)):
        keys, labels = whole(source, file)
        expected = list(slow_criteo(source.files[file]))
        assert labels.tolist() == [label for label, _ in expected]
        assert len(labels) == rows
        assert all(same_partition(keys[:, i], [values[i] for _, values in expected]) for i in range(39))


def test_integers_become_floor_of_log_squared():
    assert log_squared(np.array([-3, 0, 1, 2, 3, 8, 100, 10**9])).tolist() == [
        *[-5, -2, -1, 0],
        *[math.floor(math.log(v) ** 2) for v in (3, 8, 100, 10**9)],
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0\t" * 39 + "ab", None),
        ("0\t" * 38 + "ab", r"row 3: 39 columns; expected 40"),
        ("x\t" + "0\t" * 38 + "ab", r"row 3: column 1 is 'x'; expected a label 0 or 1"),
        ("0\t" * 38 + "g\t0", r"row 3: column 39 is 'g'; expected at most 8 hexadecimal digits"),
        ("0\t1.5\t" + "0\t" * 37 + "ab", r"row 3: column 2 is '1\.5'; expected a whole number or nothing"),
    ],
)
def test_wrong_rows_of_criteo_are_named(tmp_path, row, message):
    path = tmp_path / "train.txt"
    good = "1\t" + "7\t" * 13 + "aabbccdd\t" * 25 + "1\n"
    path.write_text(good * 2 + row + "\n" + good)
    if message is None:
        assert len(whole(Criteo(path))[1]) == 4
        return
    with pytest.raises(UserError, match=r"train\.txt, " + message):
        whole(Criteo(path))


def test_a_folder_without_the_files(tmp_path):
    for kind in (Criteo, Avazu, MovieLens):
        with pytest.raises(UserError, match=str(tmp_path)):
            kind(tmp_path)


def avazu_rows(rng, count=50):
    for number in range(count):
        cells = {name: rng.choice(["1005", "a99f214a", "-1", "0"]) for name in HEADER}
        hour = f"1410{rng.integers(21, 31)}{rng.integers(24):02}"
        yield {**cells, "id": str(10**18 + number), "click": str(rng.integers(2)), "hour": hour}


def test_avazu_is_what_plain_python_reads(tmp_path, rng):
    rows = list(avazu_rows(rng))
    path = tmp_path / "train.csv"
    path.write_text("\n".join([",".join(HEADER), *(",".join(row.values()) for row in rows)]) + "\n")
    source = Avazu(path)
    keys, labels = whole(source)
    assert labels.tolist() == [int(row["click"]) for row in rows]
    assert keys[:, 0].tolist() == [1 + int(row["hour"][6:]) for row in rows]
    days = [date(2014, 10, int(row["hour"][4:6])).weekday() for row in rows]
    assert keys[:, 1].tolist() == [1 + day for day in days]
    for field, name in enumerate(HEADER[3:], 2):
        assert same_partition(keys[:, field], [row[name] for row in rows])
    assert len(source.fields) == keys.shape[1] == 23


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"click": "yes"}, "row 2: column 2 is 'yes'; expected click 0 or 1"),
        ({"hour": "14103299"}, "row 2: column 3 is '14103299'; expected the hour as YYMMDDHH"),
        ({"device_ip": "1234,5"}, "row 2: 25 columns; expected 24"),
        ({"C21": "123456789"}, "row 2: column 24 is '123456789'; expected at most 8"),
    ],
)
def test_wrong_rows_of_avazu_are_named(tmp_path, rng, change, message):
    path = tmp_path / "train.csv"
    row = {**next(avazu_rows(rng)), **change}
    path.write_text(",".join(HEADER) + "\n" + ",".join(row.values()) + "\n")
    with pytest.raises(UserError, match=message):
        whole(Avazu(path))
    path.write_text(",".join(row.values()) + "\n")
    with pytest.raises(UserError, match=r"row 1: .* expected the header id,click"):
        whole(Avazu(path))


FORMS = {
    "typed": {
        "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t5\t4\t0\n2\t5\t3\t0\n1\t6\t5\t0\n",
        "x.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "1\t24\tM\tother\t85711\n2\t53\tF\tother\t85712\n",
        "x.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "5\tHeat\t1995\tCrime Action\n6\tUp\t2009\tDrama\n",
    },
    "100k": {
        "u.data": "1\t5\t4\t0\n2\t5\t3\t0\n1\t6\t5\t0\n",
        "u.user": "1|24|M|other|85711\n2|53|F|other|85712\n",
        "u.item": "5|Heat (1995)|01-Jan-1995||url|0|1|0|0|0|0|1" + "|0" * 12 + "\n"
        "6|Up (2009)|01-Jan-2009||url" + "|0" * 8 + "|1" + "|0" * 10 + "\n",
    },
    "1m": {
        "ratings.dat": "1::5::4::0\n2::5::3::0\n1::6::5::0\n",
        "users.dat": "1::M::24::other::85711\n2::F::53::other::85712\n",
        "movies.dat": "5::Heat (1995)::Action|Crime\n6::Up (2009)::Drama\n",
    },
}


def write_form(folder, form, **changes):
    for name, content in {**FORMS[form], **changes}.items():
        (folder / name).write_text(content)
    return MovieLens(folder)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_movielens_is_read_alike(tmp_path, form):
    source = write_form(tmp_path, form)
    keys, labels = whole(source)
    assert labels.tolist() == [1, 0, 1]
    expected = {"user": [0, 1, 0], "item": [0, 0, 1], "age": [0, 1, 0], "gender": [1, 0, 1], "occupation": [0, 0, 0]}
    expected |= {"zip": [0, 0, 0], "year": [0, 0, 1], "genres": [0, 0, 1]}
    assert dict(zip(source.fields, keys.T.tolist(), strict=True)) == expected
    assert not list(source.rows(1))


@pytest.mark.parametrize(
    ("form", "name", "content", "message"),
    [
        ("100k", "u.data", "1\t5\t4\t0\n1\t5\t4\n", r"u\.data, row 2: 3 columns; expected 4"),
        ("100k", "u.data", "1\t5\tgood\t0\n", r"u\.data, row 1: rating 'good'; expected a number"),
        ("100k", "u.data", "3\t5\t4\t0\n", r"u\.data, row 1: user 3 is not in the table of users"),
        ("100k", "u.data", "1\t5\t7\t0\n", r"u\.data, row 1: rating '7'; expected a number from 0 to 5"),
        ("1m", "ratings.dat", "1::7::4::0\n", r"ratings\.dat, row 1: item 7 is not in the table of items"),
        ("1m", "ratings.dat", "", r"ratings\.dat: the file has no rows"),
        ("typed", "x.user", "user_id:token\tage:token\n1\t2\n", r"x\.user, row 1: no column 'gender'"),
        ("typed", "x.inter", "user_id:token\titem_id:token\trating:float\n1\t5\tx\n", r"x\.inter, row 2: rating 'x'"),
    ],
)
def test_wrong_rows_of_movielens_are_named(tmp_path, form, name, content, message):
    source = write_form(tmp_path, form, **{name: content})
    with pytest.raises(UserError, match=message):
        whole(source)


def test_synthetic_text_holds_what_was_drawn(tmp_path):
    law = Law(values=50)
    path = tmp_path / "train.txt"
    path.write_bytes(b"".join(criteo_text(law, 300, 7)))
    integers, categories, clicks = draw(law, 300, np.random.default_rng(7))
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    assert [int(row[0]) for row in rows] == clicks.tolist()
    assert [[int(cell) if cell else -1 for cell in row[1:14]] for row in rows] == integers.tolist()
    for field in range(26):
        column = [row[14 + field] for row in rows]
        assert same_partition(categories[:, field], column)
        assert all((cell == "") == (value < 0) for cell, value in zip(column, categories[:, field], strict=True))
    assert {len(cell) for row in rows for cell in row[14:]} == {0, 8}


def test_synthetic_clicks_follow_their_law():
    law = Law(pair=1.0, triple=-2.0, bias=0.3)
    _, categories, clicks = draw(law, 200_000, np.random.default_rng(0))
    signs = np.where(categories[:, :5] % 2, -1, 1)
    for pair in (-1, 1):
        for triple in (-1, 1):
            chosen = (signs[:, 0] * signs[:, 1] == pair) & (signs[:, 2] * signs[:, 3] * signs[:, 4] == triple)
            assert clicks[chosen].mean() == pytest.approx(1 / (1 + math.exp(-(pair - 2 * triple + 0.3))), abs=0.01)
