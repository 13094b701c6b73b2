"""What is kept of detections: read only as what its name says, and shown on both pages."""
import json

import pytest

from leaderboard import analyses, build
from leaderboard.errors import RecordError
from leaderboard.record import read_all, write

DATA, FOUND = "d" * 64, "e" * 64
PHOTO = dict(id=7, width=20, height=10, objects=[["disc", 1, 2, 5, 5]])
ERRORS = {"bbox": {"Loc": 12.5, "Miss": 3.0}}


@pytest.fixture
def board(results):
    analyses.keep(results, analyses.photos(DATA, [PHOTO]))
    analyses.keep(results, analyses.analysis(FOUND, DATA, ERRORS, [[["disc", 1, 2, 5, 6, 0.9]]]))
    return results


def test_what_is_kept_is_read_under_its_hash(board):
    kept = analyses.read_all(board, read_all(board))
    assert set(kept) == {DATA, FOUND} and kept[DATA]["photos"] == [PHOTO] and kept[FOUND]["errors"] == ERRORS


def test_errors_are_the_mean_over_the_rows_that_have_them(make):
    kept = {"1" * 64: dict(errors={"bbox": {"Loc": 1.0}}), "2" * 64: dict(errors={"bbox": {"Loc": 4.0}})}
    rows = [make(seed=i, detections=str(i) * 64) for i in range(4)]
    assert analyses.mean_errors(rows, kept) == {("bbox", "Loc"): 2.5}
    assert analyses.mean_errors([make(detections=None)], kept) == {}


def test_the_markdown_has_the_kinds_of_errors(board):
    text = build.build(board)
    assert "| bbox: AP50 lost to   |   Loc |   Miss |" in text and "| detco                |  12.5 |    3.0 |" in text


def test_a_board_without_any_is_as_before(results):
    assert "lost to" not in build.build(results) and analyses.read_all(results, read_all(results)) == {}


@pytest.mark.parametrize("harm", [
    lambda c: c | {"detections": "f" * 64}, lambda c: c | {"more": 1}, lambda c: [c], lambda c: None,
    lambda c: c | {"errors": {"bbox": {"Loc": "12"}}}, lambda c: c | {"errors": [1]}, lambda c: c | {"found": {}},
    lambda c: c | {"found": [[["disc", 1, 2, 5, 6]]]}, lambda c: c | {"found": [[[1, 1, 2, 5, 6, 0.9]]]},
    lambda c: c | {"found": [[["x" * 81, 1, 2, 5, 6, 0.9]]]},
    lambda c: c | {"found": [[["disc", 1, 2, 5, True, 0.9]]]}])
def test_what_is_no_analysis_is_one_line_with_its_file(harm, board):
    path = analyses.path_of(board, FOUND)
    path.write_text(json.dumps(harm(json.loads(path.read_text()))))
    with pytest.raises(RecordError, match="^[^\n]*eeee.json: not what its name says; delete it[^\n]*$"):
        build.build(board)


@pytest.mark.parametrize("harm", [{"width": 0}, {"width": "20"}, {"id": "7"}, {"objects": [["disc", 1, 2, 5]]}])
def test_what_is_no_photo_is_one_line_with_its_file(harm, board):
    path = analyses.path_of(board, DATA)
    path.write_text(json.dumps(dict(data=DATA, photos=[PHOTO | harm])))
    with pytest.raises(RecordError, match="dddd.json: not what its name says"):
        build.build(board)


def test_category_names_make_no_markup(board, make):
    bad = "</script><img src=x>"
    analyses.keep(board, analyses.analysis(FOUND, DATA, {bad: {bad: 1.0}}, [[[bad, 1, 2, 5, 6, 0.9]]]))
    write(board, make(seed=5))
    for text in build.pages(board).values():
        assert "<img src=x>" not in text
