"""The page of evidence: what it says is what the records say."""
import re

import pytest

from benchmarks import evidence
from leaderboard import analyses, overview
from leaderboard.statistics import difference, holm, verdict

KEPT = {"d" * 64: analyses.photos("d" * 64, [dict(id=1, width=20, height=10, objects=[["disc", 1, 1, 5, 5]])]),
        "e" * 64: analyses.analysis("e" * 64, "d" * 64, {"bbox": {"Loc": 1.0}}, [[["disc", 1, 1, 5, 5, 0.4]]])}


def curve(top):
    return [{"step": 74 * e, "epoch": e, "images": 9469 * e, "encoder_pixels": 10**8 * e,
             "knn": {f"c{i}": top + i + e for i in range(2, 6)}} for e in (1, 2)]


@pytest.fixture
def rows(make, recipe):
    """Two tasks; DetCo and MoCo v2 from two pretrainings and two transfers each, MoCo v2 in another length too."""
    longer = recipe("moco_v2")
    longer["config"] = {**longer["config"], "schedule": {"epochs": 7, "batch": 32}}
    made = [make(method, seed, pretrained, scale="small", schedule="small", task=task)
            for task in ("coco_maskrcnn_c4", "coco_maskrcnn_fpn") for method in ("detco", "moco_v2")
            for pretrained in (0, 1) for seed in (0, 1)]
    made += [make("moco_v2+0a1b2c3d", seed, scale="small", schedule="small", recipe=longer) for seed in (0, 1)]
    for row in made:
        row["metrics"]["bbox_AP"] += 0.1 * row["seed"] * (row["method"] == "detco")
        row["checkpoint"]["metadata"]["monitor"] = curve(40 if row["method"] == "detco" else 30)
    return [*made, make("detco")]  # and one of another scale


def test_sentences_give_the_differences_and_their_intervals(rows):
    text = evidence.page(rows, {})
    mine = [[r for r in rows if r["method"] == m and r["scale"] == "small" and r["task"] == "coco_maskrcnn_c4"]
            for m in ("detco", "moco_v2")]
    over = difference(*mine, "bbox_AP")
    told = verdict(over.mean, holm([over.p, over.p])[0])  # as for the other task
    said = f"at equal epochs: coco_maskrcnn_c4 {over.mean:+.1f} [{over.low:+.1f}, {over.high:+.1f}] over " \
        f"2 + 2 pretrainings, {told}; "
    assert told and said in text.replace("\\", "")
    assert "over 2 tasks: detco 8 from 2; moco_v2 8 from 2; moco_v2, schedule.epochs 7 2 from 1." in text
    # Both curves have a point at each pixel count; DetCo's is 10 above: 40 + 5 + 2 and 30 + 5 + 2.
    assert re.search(r"at equal encoder pixels: coco_maskrcnn_c4 [^;]*; k-NN of C5 on the way, pretraining 0: 47.0 "
                     r"after 0.20 billion pixels against 37.0 after 0.20; [^;]*\.", text)
    assert "against random initialisation: not measured yet" in text


def test_a_changed_recipe_is_shown_by_what_it_changes(rows):
    own = [row for row in rows if row["scale"] == "small"]
    assert overview.labels(own)["moco_v2+0a1b2c3d"] == "moco_v2, schedule.epochs 7"
    assert overview.labels(own)["detco"] == "detco"


def test_a_board_without_rows_of_the_scale_says_so(make):
    assert "No row of this scale has been filed yet." in evidence.page([make("detco")], {})


def test_moco_v2_takes_detcos_pixels_in_as_many_epochs():
    from benchmarks.recipe import load_scale, resolve_recipe
    from detco import engine

    recipes = [resolve_recipe(name, load_scale("small")) for name in ("detco", "moco_v2")]
    pixels = [engine.build(recipe, 10).pixels_per_image for recipe in recipes]
    assert evidence.equal_epochs() * pixels[1] == pytest.approx(recipes[0]["schedule"]["epochs"] * pixels[0])


def test_pictures_are_the_same_bytes_each_time(rows, tmp_path):
    for name in "ab":
        evidence.plot(rows, KEPT, tmp_path / name)
    drawn = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab"]
    assert drawn[0] == drawn[1] and set(drawn[0]) == {
        f"{name}.svg" for name in (evidence.CURVES, evidence.COST, evidence.FOUND)}
    assert all(f"evidence/{name}" in evidence.page(rows, KEPT) for name in drawn[0])
