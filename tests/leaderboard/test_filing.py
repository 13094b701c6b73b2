"""A finished run meets the board: filed once, compared afterwards, refused where it would break the page."""
import json

import pytest

from leaderboard.build import build
from leaderboard.errors import RecordError
from leaderboard.record import file, fingerprint, protocol_path, read_all


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
