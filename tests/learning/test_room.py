"""Space for rows that the host does not count."""

import torch

from nerf_dfa.learning.room import MARGIN, MULTIPLE, Room
from nerf_dfa.learning.selected import Selection, chosen


def test_all_rows_have_space_until_it_is_known_how_many_need_it():
    room = Room()
    assert [room.rows(n) for n in (0, 1, 1000)] == [0, 1, 1000]
    room.note(torch.tensor(10), 1000)
    assert room.rows(1000) == 1000
    room.settle()
    assert room.rows(1000) == MULTIPLE
    assert room.rows(100 * MULTIPLE) == 2 * MULTIPLE  # a hundredth and the margin
    room.settle()  # nothing new
    assert room.rows(100 * MULTIPLE) == 2 * MULTIPLE


def test_the_largest_share_counts():
    room = Room()
    for count, total in ((100, 1000), (500, 1000), (100, 2000)):
        room.note(torch.tensor(count), total)
    room.settle()
    assert room.rows(100_000) == MULTIPLE * -(-round(0.5 * MARGIN * 100_000) // MULTIPLE)
    room.note(torch.tensor(999), 1000)
    room.settle()
    assert room.rows(100_000) == 100_000


def test_none_needing_space_leaves_some():
    room = Room()
    room.note(torch.tensor(0), 1000)
    room.settle()
    assert 1 <= room.rows(1000) <= MULTIPLE


def test_the_rows_with_the_largest_error_are_taken():
    error = torch.full((3 * MULTIPLE, 1), 1e-3)
    error[7::10, 0] = torch.arange(1.0, 1 + len(error[7::10]))
    room = Room()
    assert len(chosen(error, Selection(0.99), room)[0]) == len(error)
    room.settle()
    rows = chosen(error, Selection(0.99), room)[0]
    assert len(rows) == MULTIPLE
    exact = chosen(error, Selection(0.99))[0]
    assert rows[: len(exact)].tolist() == exact.tolist()


def test_rows_without_any_error_are_not_those_of_which_a_share_errs():
    """They may only fill space, and of that there is less the next time."""
    error = torch.zeros(10 * MULTIPLE, 1)
    error[: MULTIPLE + 1] = 1.0
    room = Room()
    chosen(error, Selection(0.99), room)[0]
    room.settle()
    assert len(chosen(error[: 2 * MULTIPLE], Selection(0.99), room)[0]) == 2 * MULTIPLE
