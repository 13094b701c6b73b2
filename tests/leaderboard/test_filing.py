"""A finished run meets the board: filed once, compared afterwards, refused where it would break the page."""
import hashlib
import json

import pytest

from leaderboard import detections
from leaderboard.__main__ import main
from leaderboard.build import build
from leaderboard.errors import RecordError
from leaderboard.record import RECIPES, edited, file, fingerprint, protocol_path, read_all


@pytest.fixture
def add(tmp_path, protocol):
    """Files a record on a new board."""
    def add(record, replace=False, protocol=protocol, recipes=None):
        return file(tmp_path / "results", record, protocol, replace, recipes)

    return add


def test_a_new_key_is_filed_with_its_protocol(tmp_path, add, make, protocol):
    for seed in range(2):
        outcome = add(make(seed=seed))
        assert outcome.status == "filed" and str(outcome.path) in outcome.line
    assert [record["seed"] for record in read_all(tmp_path / "results")] == [0, 1]
    stored = protocol_path(tmp_path / "results", fingerprint(protocol))
    assert stored == tmp_path / "protocols" / f"{fingerprint(protocol)[:16]}.json"
    assert json.loads(stored.read_text()) == {"fingerprint": fingerprint(protocol), "config": protocol}
    assert build(tmp_path / "results").count("detco") > 0


def test_the_same_result_of_another_day_is_the_same(add, make):
    before = add(make()).path.read_bytes()
    again = make(cost=make()["cost"] | {"wall_seconds": 1.0}, environment=make()["environment"] | {"commit": None},
                 data={"source": "coco", "images": None})  # as in records converted from schema 1
    outcome = add(again)
    assert outcome.status == "same" and outcome.path.read_bytes() == before


def test_another_result_is_compared_and_filed_only_when_asked(add, make):
    # Filed: 10, 12 and 14, that is 12 +- 2; another run falls within 4.303 * 2 * sqrt(4/3) = 9.94 of 12.
    for seed in range(3):
        add(make(seed=seed, metrics={"bbox_AP": 10.0 + 2 * seed}))
    before = add(make(metrics={"bbox_AP": 10.0})).path.read_bytes()
    inside, outside = add(make(metrics={"bbox_AP": 21.9})), add(make(metrics={"bbox_AP": 22.0}))
    assert inside.status == "reproduced" and outside.status == "differs"
    assert inside.line == "reproduces the filed row: bbox_AP 21.9 against 12.0 \u00b1 2.0 (3 runs)"
    assert outside.line == "differs from the filed row: bbox_AP 22.0 against 12.0 \u00b1 2.0 (3 runs)"
    assert inside.path.read_bytes() == before
    replaced = add(make(metrics={"bbox_AP": 22.0}), replace=True)
    assert replaced.status == "filed" and json.loads(replaced.path.read_text())["metrics"] == {"bbox_AP": 22.0}


def test_one_filed_run_has_no_spread_to_judge_by(add, make):
    add(make(metrics={"bbox_AP": 10.0}))
    outcome = add(make(metrics={"bbox_AP": None}))
    assert outcome.status == "differs"
    assert outcome.line == ("differs from the filed row: bbox_AP nothing against 10.0 (one run: no spread to judge by)")
    # The score is reproduced though another part of the record, here the losses, is not.
    assert add(make(metrics={"bbox_AP": 10.0}, train_losses={})).status == "reproduced"


def test_a_run_of_another_kind_reproduces_nothing(add, make, recipe):
    add(make())
    changed = make(recipe=recipe("detco", bank_size=512), task_version=2, data_fingerprint="c" * 64)
    outcome = add(changed)
    assert outcome.status == "differs"
    assert outcome.line.endswith(f"its version differs: 1 != 2; its data differs: {'d' * 12} != {'c' * 12}; "
                                 "its recipe differs: config.method.bank_size: 256 != 512")


@pytest.mark.parametrize("replace", [False, True])
def test_a_row_that_would_stop_the_build_is_refused(tmp_path, add, make, recipe, protocol, replace):
    add(make(seed=0))
    add(make(seed=1))
    other = protocol | {"optimizer": {"lr": 0.1, "steps": [900, 1100]}}
    seed = 1 if replace else 2  # of two filed rows one, or a third
    for record, resolved, message in (
            (make(seed=seed, protocol_fingerprint=fingerprint(other)), other, r"optimizer\.lr: 0\.02 != 0\.1"),
            (make(seed=seed, data_fingerprint="c" * 64), protocol, "differ in data"),
            (make(seed=seed, recipe=recipe("detco", bank_size=8)), protocol, r"bank_size: 256 != 8; give one a name"),
            (make(seed=seed, protocol_fingerprint=fingerprint(other)), protocol, "that of the protocol is"),
            (make(seed=seed, limit=8), protocol, "a shortened run is not filed"),
            (make(seed=seed, scale="a b"), protocol, "'scale' is 'a b'")):
        with pytest.raises(RecordError, match=message):
            add(record, replace, resolved)
    assert len(read_all(tmp_path / "results")) == 2 and "detco" in build(tmp_path / "results")
    assert len(list((tmp_path / "protocols").iterdir())) == 1


def test_rows_under_todays_recipe_are_filed_beside_those_they_supersede(tmp_path, add, make, recipe):
    new = recipe("detco", bank_size=512)
    today = tmp_path / "recipes.json"
    today.write_text(json.dumps({"mini": {"detco": new["hash"]}}))
    add(make(seed=0))
    assert add(make(seed=1, recipe=new), recipes=today).status == "filed"
    with pytest.raises(RecordError, match="stands for two recipes"):
        add(make(seed=2, recipe=recipe("detco", bank_size=8)), recipes=today)


def test_a_raised_version_replaces_the_rows_of_the_older(add, make, protocol):
    add(make(seed=0))
    add(make(seed=1))
    newer = protocol | {"optimizer": {"lr": 0.1}}
    raised = make(task_version=2, protocol_fingerprint=fingerprint(newer))
    assert add(raised, protocol=newer).status == "differs"
    assert add(raised, replace=True, protocol=newer).status == "filed"


def test_a_name_that_begins_like_another_is_not_taken_for_it(add, make, recipe):
    add(make("detco"))
    add(make("detco-aa", recipe=recipe("detco", bank_size=8)))
    assert add(make("detco", 1)).status == "filed"


@pytest.mark.parametrize("text", ["[]", '{"mini": "detco"}', '{"mini": {"detco": 1}}', "{"])
def test_damaged_recipes_are_named(tmp_path, add, make, text):
    (tmp_path / "recipes.json").write_text(text)
    with pytest.raises(RecordError, match="recipes.json: "):
        add(make(), recipes=tmp_path / "recipes.json")


@pytest.fixture
def elsewhere(tmp_path, make, protocol):
    """A run's work folder, as somebody else sends it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    content = {"detections.bbox.json": b"[1]", "detections.segm.json": b"[2]"}
    for name, bytes_ in content.items():
        (folder / name).write_bytes(bytes_)
    stated = fingerprint([hashlib.sha256(bytes_).hexdigest() for bytes_ in reversed(content.values())])
    (folder / "result.json").write_text(json.dumps(make(detections=stated)))
    (folder / "protocol.json").write_text(json.dumps(protocol))
    return folder / "result.json"


def command(tmp_path, *words):
    (tmp_path / "results").mkdir(exist_ok=True)
    return main([*map(str, words), "--results", str(tmp_path / "results"), "--output", str(tmp_path / "page.md")])


def test_a_result_from_elsewhere_is_added_with_its_protocol_and_detections(tmp_path, elsewhere, capsys):
    assert command(tmp_path, "add", elsewhere) == 0
    assert f"{elsewhere}: filed as {tmp_path / 'results'}" in capsys.readouterr().out
    [row] = read_all(tmp_path / "results")
    assert detections.read(tmp_path / "results", row["detections"])["detections.segm.json"] == b"[2]"
    assert "detco" in (tmp_path / "page.md").read_text() and command(tmp_path, "--check") == 0
    elsewhere.with_name("protocol.json").unlink()  # the board has it now
    assert command(tmp_path, "add", elsewhere) == 0 and "the filed row has the same result" in capsys.readouterr().out


@pytest.mark.parametrize(("harm", "words"), [
    (lambda p: p.write_text(p.read_text().replace('"bbox_AP": 24.0', '"bbox_AP": 240.0')),
     "field 'metrics.bbox_AP' is 240.0; it must be at most 100"),
    (lambda p: p.write_text(p.read_text().replace('"detco"', '"<b>"')), "field 'method' is '<b>'"),
    (lambda p: p.write_text("[]"), "must be object"),
    (lambda p: p.write_text("{"), "Expecting property name"),
    (lambda p: p.with_name("protocol.json").write_text('{"model": 1}'), "field 'protocol_fingerprint' is"),
    (lambda p: p.with_name("protocol.json").unlink(), "protocol.json: no such file"),
    (lambda p: p.with_name("detections.bbox.json").write_text("[]"), "the detections beside it are not those"),
    (lambda p: p.with_name("detections.bbox.json").unlink(), "the detections beside it are not those"),
    (lambda p: p.unlink(), "no such file")])
def test_a_result_that_fails_is_told_precisely_and_leaves_the_board_as_it_is(harm, words, tmp_path, elsewhere, capsys):
    harm(elsewhere)
    assert command(tmp_path, "add", elsewhere) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(elsewhere.parent) in line and words in line
    assert not list((tmp_path / "results").rglob("*.json")) and not (tmp_path / "detections").exists()


def test_a_record_edited_removed_or_put_there_by_hand_is_found(tmp_path, add, make, capsys):
    one, two = add(make(seed=0)).path, add(make(seed=1)).path
    assert command(tmp_path) == 0 and command(tmp_path, "--check") == 0
    one.write_text(one.read_text().replace('"platform": "Linux"', '"platform": "Other"'))  # nothing that the page shows
    two.rename(two.with_name("detco-p0-s2.json"))
    two.with_name("detco-p0-s2.json").write_text(two.with_name("detco-p0-s2.json").read_text().replace(
        '"seed": 1,', '"seed": 2,'))
    command(tmp_path)
    capsys.readouterr()
    assert command(tmp_path, "--check") == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == [str(one), str(two.with_name("detco-p0-s2.json")), str(two)]
    assert "not as it was filed" in said[0] and "no longer there" in said[2]


def test_the_shipped_board_is_as_it_was_filed():
    assert edited(RECIPES.parent / "results") == []
