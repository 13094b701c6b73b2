"""The page: order, marks, checks across rows, staleness, and the paper's block against its file."""
import csv
import json
import os
import re
import shutil

import pytest

from detco import backbone
from leaderboard.__main__ import main
from leaderboard.build import build, pages
from leaderboard.checks import ARCHS, first_difference
from leaderboard.errors import RecordError
from leaderboard.published import TABLES, published_tables
from leaderboard.record import fingerprint, write, write_protocol
from leaderboard.tables import escaped, format_comparison, format_rows, metric_columns, tables

ALL = ("random_init", "supervised", "moco_v2", "detco")


def grid(text, heading):
    """The cells of the first markdown table after `heading`: rows, header first, without the rule."""
    lines = text.split(heading, 1)[1].split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip().replace("\u00a0", " ") for cell in line.strip("|").split("|")])
    return [table[0], *table[2:]]


def scores(text, heading="## mini · coco_maskrcnn_c4"):
    header, *rows = grid(text, heading)
    return {row[0]: dict(zip(header, row)) for row in rows}


def test_rows_are_ordered_by_the_main_metric_and_hold_mean_spread_and_cost(results):
    table = scores(build(results))
    assert list(table) == ["detco", "moco_v2", "supervised", "random_init"]
    assert list(table["detco"]) == [
        "method", "bbox_AP", "bbox_AP50", "bbox_AP75", "segm_AP", "segm_AP50", "segm_AP75", "runs",
        "spread over", "images seen", "encoder Gpixel", "device hours", "transfer min"]
    # Seeds 0, 1, 2 score 24.0, 24.3, 24.6: mean 24.3, sd 0.3; 84, 85 and 86 seconds are 1.4 minutes.
    assert list(table["detco"].values())[1:3] == ["24.3 ± 0.3", "40.3 ± 0.3"]
    assert list(table["detco"].values())[7:] == ["3", "transfers", "80.0k", "13.90", "0.05", "1.4"]
    assert list(table["random_init"].values())[9:] == ["0", "0.00", "0.00", "1.4"]


def test_another_main_metric_changes_order_and_columns(results, make):
    metrics = {"bbox_AP": 90.0, "segm_AP": 1.0, "mIoU": 5.0}
    for name, main_score in (("zzz", 9.0), ("aaa", 3.0)):
        write(results, make(name, task="cityscapes_maskrcnn_fpn", main_metric="segm_AP",
                            metrics=metrics | {"segm_AP": main_score}))
    table = scores(build(results), "## mini · cityscapes_maskrcnn_fpn")
    assert list(table) == ["zzz", "aaa"]
    assert list(table["zzz"])[1:4] == ["segm_AP", "bbox_AP", "mIoU"]


def test_sizes_and_recall_stand_folded_in_a_table_of_their_own(results, make):
    metrics = make()["metrics"]
    for seed, small in ((0, 4.0), (1, 6.0)):
        write(results, make("detco", seed, task="sized", metrics=metrics | {"bbox_APs": small, "bbox_AR100": 50.0}))
    text = build(results)
    assert "bbox_APs" not in scores(text, "## mini · sized")["detco"]
    folded = scores(text[text.index("## mini · sized"):], "<summary>By object size, and recall</summary>")
    assert folded == {"detco": {"method": "detco", "bbox_APs": "5.0 ± 1.4", "bbox_AR100": "50.0 ± 0.0"}}
    assert text.count("<details>") == text.count("</details>") == 3  # and the provenance of two tables


def test_a_single_run_is_marked(results, make):
    write(results, make("byol", 0))
    table = scores(build(results))
    assert table["byol"]["bbox_AP"] == "17.0 †" and (table["byol"]["runs"], table["byol"]["spread over"]) == ("1", "—")
    assert "†" not in str(table["detco"]) and "† one run, no spread is known" in build(results)


def test_the_page_says_what_a_spread_was_taken_over(root, make):
    for method, runs in (("a", [(0, 0), (0, 1)]), ("b", [(0, 0), (1, 0), (2, 0)]), ("c", [(0, 0), (1, 1)])):
        for pretraining, seed in runs:
            write(root, make(method, seed, pretraining))
    table = scores(build(root))
    assert {name: (row["runs"], row["spread over"]) for name, row in table.items()} == {
        "a": ("2", "transfers"), "b": ("3", "pretrainings"), "c": ("2", "both")}


def test_a_deterministic_score_repeated_has_neither_interval_nor_verdict(root, make):
    for method, score in (("detco", 40.0), ("moco_v2", 30.0)):
        for seed in range(3):
            write(root, make(method, seed, deterministic=True, metrics={"bbox_AP": score}))
    page = build(root)
    assert (scores(page)["detco"]["bbox_AP"], scores(page)["detco"]["runs"]) == ("40.0 †", "1")
    _, row = grid(page, "Ordered by")
    assert row[2:] == ["+10.00", "—", "—", "—", "—", "—"]


def test_a_missing_cell_is_a_dash_and_fewer_values_are_counted(results, make):
    bare = {"hash": "b" * 64, "metadata": {}}
    for seed in range(3):
        metrics = {"bbox_AP": 10.0 + seed, "bbox_AP50": None if seed else 20.0, "segm_AP": seed or None}
        write(results, make("byol", seed, metrics=metrics, checkpoint=bare, cost=dict.fromkeys(make()["cost"])))
    row = scores(build(results))["byol"]
    assert (row["bbox_AP"], row["bbox_AP50"], row["bbox_AP75"]) == ("11.0 ± 1.0", "20.0 † (n=1)", "—")
    assert row["segm_AP"] == "1.5 ± 0.7 (n=2)"
    assert list(row.values())[-4:] == ["—"] * 4


def test_a_method_without_the_main_metric_comes_last(results, make):
    write(results, make("byol", 0, metrics={"bbox_AP": None, "segm_AP": 80.0}))
    assert list(scores(build(results)))[-1] == "byol"


def test_an_unreliable_row_says_why(results, make):
    write(results, make("detco", 1, unreliable="the loss was *not* finite"))
    page = build(results)
    assert "detco ‡" in scores(page)
    assert "‡ detco p0 s1: the loss was \\*not\\* finite" in page


def test_the_overview_has_every_number_its_interval_and_its_verdict(results, make):
    for task, best in (("knn", 50.0), ("voc07_svm", 60.0)):
        for method, score in (("detco", best), ("moco_v2", best - 10), ("supervised", best - 10)):
            write(results, make(method, task=task, main_metric="mAP", metrics={"mAP": score}))
    header, *rows = grid(build(results), "## mini · overview")
    assert header == ["task", "detco", "moco_v2", "supervised", "random_init"]
    # Seeds 24.0, 24.3, 24.6: sd 0.3, half of the interval 4.303 x 0.3 / sqrt(3).
    assert rows == [["coco_maskrcnn_c4", "24.3 ± 0.7 ▲", "23.3 ± 0.7", "21.8 ± 0.7 ▼", "17.3 ± 0.7 ▼"],
                    ["knn", "50.0 †", "40.0 †", "40.0 †", "—"], ["voc07_svm", "60.0 †", "50.0 †", "50.0 †", "—"],
                    ["mean rank", "1.0 ± 0.0", "2.3 ± 0.7", "2.7 ± 0.7", "—"]]


def curve(top, *pixels):
    return [{"step": i, "epoch": i, "images": i, "encoder_pixels": p, "knn": {"c5": top + i}}
            for i, p in enumerate(pixels)]


def test_the_overview_compares_at_equal_encoder_pixels(root, make, recipe):
    """MoCo v2 in a longer schedule, as a row of its own name, takes DetCo's pixels within a twentieth, as itself half;
    while they ran, DetCo had taken MoCo v2's last pixels, or fewer, at its second point."""
    longer = recipe("moco_v2")
    longer["config"] = {**longer["config"], "schedule": {"epochs": 7, "batch": 32}}
    longer["hash"] = fingerprint(longer["config"])
    for method, pixels, changed, score, points in (
            ("detco", 2_000_000_000, {}, 24.0, curve(50, 10**9, 1_400_000_000, 2 * 10**9)),
            ("moco_v2", 1_500_000_000, {}, 20.0, curve(40, 10**9, 1_500_000_000)),
            ("moco_v2+0a1b2c3d", 1_950_000_000, dict(recipe=longer), 21.0, None)):
        for seed in range(2):
            row = make(method, seed, metrics={"bbox_AP": score + seed * (method == "detco")}, **changed)
            row["checkpoint"]["metadata"]["budget"]["encoder_pixels"] = pixels
            row["checkpoint"]["metadata"]["monitor"] = points
            write(root, row)
    found = grid(build(root), "Who is better at the same encoder pixels")
    assert found[0] == ["what", "difference", "encoder Gpixel", "mean", "95 % interval", "verdict", "over"]
    assert found[1][:4] + found[1][6:] == ["coco_maskrcnn_c4", "detco - moco_v2, schedule.epochs 7", "2.00", "+3.50",
                                           "2 transfers"]
    assert found[2:] == [["k-NN of C5 on the way", "detco - moco_v2, p0", "1.40 / 1.50", "+10.00", "—", "—",
                          "one pretraining"]]


def test_of_several_versions_of_a_task_the_overview_has_the_newest(results, make):
    write(results, make("detco", task_version=2, metrics={"bbox_AP": 5.0, "segm_AP": 1.0}))
    assert grid(build(results), "## mini · overview") == [["task", "detco"], ["coco_maskrcnn_c4", "5.0 †"]]


def test_which_task_foretells_which_is_said_from_five_methods_on(root, make):
    from scipy.stats import spearmanr

    scored = {"knn": [10, 20, 30, 40, 50], "voc07_svm": [1, 3, 2, 5, 4]}
    for task, values in scored.items():
        for number, value in enumerate(values):
            write(root, make(f"m{number}", task=task, main_metric="mAP", metrics={"mAP": float(value)}))
    row, = grid(build(root), "Which task foretells which")[1:]
    r = spearmanr(*scored.values()).statistic
    assert row[:3] == ["knn", "voc07_svm", f"{r:+.2f}"] and row[4] == "5"
    next(root.rglob("m4-*.json")).unlink()
    assert "foretells" not in build(root)


def test_paired_differences_to_moco_v2_then_to_random_init(results):
    rows = grid(build(results), "Ordered by")[1:]
    assert [row[:2] for row in rows] == [[metric, f"{method} - moco_v2"] for metric in ("bbox_AP", "segm_AP")
                                         for method in ("detco", "supervised", "random_init")]
    assert rows[1][2:] == ["-1.50", "-1.50 … -1.50", "< 0.001", "worse", "3 transfers", "—"]
    for path in results.rglob("moco_v2-*.json"):
        path.unlink()
    assert "detco - random_init" in build(results)
    for path in results.rglob("random_init-*.json"):
        path.unlink()
    assert "left aside" not in build(results)


def test_unpaired_seeds_are_named(results, make):
    write(results, make("detco", 7))
    _, first, *_ = grid(build(results), "Ordered by")
    assert first[-2:] == ["3 transfers", "p0 s7"]


def test_provenance_names_code_data_and_device(results, make):
    environment = {"versions": {"torch": "2.4.0"}, "platform": None, "commit": "f" * 40, "dirty": True}
    cost = make()["cost"] | {"device": "A*B"}
    write(results, make("detco", 0, environment=environment, cost=cost))
    page = build(results)
    assert f"protocol `{make()['protocol_fingerprint'][:12]}`, data `dddddddddddd`" in page
    assert "commit 0123456789ab; ffffffffffff (dirty)" in page
    assert "torch 2.15.0; 2.4.0, mmdet 3.3.0; —" in page
    assert "device A\\*B; cpu" in page


def test_mixed_protocols_stop_the_build_and_name_the_field(results, make, protocol, capsys):
    protocol["model"]["train_cfg"]["rcnn"]["num"] = 512
    write_protocol(results, protocol)
    write(results, make("supervised", 1, protocol_fingerprint=fingerprint(protocol)))
    with pytest.raises(RecordError, match=r"detco p0 s0 and supervised p0 s1 differ in protocol: "
                                          r"model\.train_cfg\.rcnn\.num: 64 != 512; "):
        build(results)
    page = results.parent / "page.md"
    assert main(["--results", str(results), "--output", str(page)]) == 2
    error = capsys.readouterr().err
    assert "rcnn.num: 64 != 512" in error and error.count("\n") == 1 and not page.exists()


@pytest.mark.parametrize(("damage", "message"), [
    (lambda path: path.unlink(), "no such file"),
    (lambda path: path.write_text(path.read_text().replace("64", "65")), "not the protocol of"),
    (lambda path: path.write_text("{}"), "not the protocol of"),
])
def test_a_protocol_that_is_missing_or_edited_stops_the_build(results, make, damage, message):
    [path] = (results.parent / "protocols").iterdir()
    damage(path)
    with pytest.raises(RecordError, match=f"{path.name}: {message}"):
        build(results)


def test_mixed_data_and_architectures_stop_the_build(results, make):
    data = {"source": "coco", "images": {"train": 500, "val": 148}}
    path = write(results, make("supervised", 1, data_fingerprint="c" * 64, data=data))
    with pytest.raises(RecordError, match="differ in data: images.train: 600 != 500"):
        build(results)
    path = write(results, make("supervised", 1, data_fingerprint="c" * 64))
    with pytest.raises(RecordError, match="differ in data: data_fingerprint d{12} != c{12}"):
        build(results)
    path.unlink()
    write(results, make("supervised", 1, arch="resnet50"))
    with pytest.raises(RecordError, match="differ in arch: arch resnet18 != resnet50"):
        build(results)


def recipes_file(folder, **hashes):
    path = folder / "recipes.json"
    path.write_text(json.dumps({"mini": hashes}))
    return path


def test_two_recipes_of_one_name_stop_the_build_even_in_different_tasks(results, make, recipe):
    write(results, make("detco", task="knn", recipe=recipe("detco", bank_size=512)))
    with pytest.raises(RecordError, match=r"mini: 'detco' stands for two recipes: coco_maskrcnn_c4 detco p0 s0 and knn "
                                          r"detco p0 s0 differ in config\.method\.bank_size: 256 != 512; give"):
        build(results)
    write(results, make("detco", task="knn", recipe=make()["recipe"] | {"pool": "b" * 64}))
    with pytest.raises(RecordError, match="differ in pool: 'aaa.*bbb"):
        build(results, recipes_file(results.parent, detco=make()["recipe"]["hash"]))


def test_two_checkpoints_under_one_foreign_name_stop_the_build(root, make):
    unknown = dict.fromkeys(("hash", "config", "pool"))
    for seed in range(2):
        write(root, make("byol", seed, None, recipe=unknown, checkpoint={"hash": str(seed) * 64, "metadata": {}}))
    with pytest.raises(RecordError, match="'byol' stands for two .* differ in checkpoint 0{12} != checkpoint 1{12}"):
        build(root)


def test_rows_of_a_recipe_that_is_not_todays_are_marked(results, make):
    own = make()["recipe"]["hash"]
    page = build(results, recipes_file(results.parent, detco=own, moco_v2="c" * 64))
    assert list(scores(page))[:3] == ["detco", "moco_v2 §", "supervised"]
    assert "moco_v2 §" not in build(results)


def test_rows_that_todays_recipe_supersedes_stand_apart(results, make, recipe):
    new = recipe("detco", bank_size=512)
    write(results, make("detco", 0, recipe=new, metrics={"bbox_AP": 50.0}))
    page = build(results, recipes_file(results.parent, detco=new["hash"]))
    assert scores(page)["detco"]["bbox_AP"] == "50.0 †"
    earlier = page.split("## mini · superseded recipes")[1]
    assert "- detco: config.method.bank_size: 256 != 512" in earlier
    assert scores(earlier, "superseded · coco_maskrcnn_c4")["detco §"]["bbox_AP"] == "24.5 ± 0.2"
    third = recipe("detco", bank_size=64)
    write(results, make("detco", 7, recipe=third, metrics={"bbox_AP": 10.0}))
    earlier = build(results, recipes_file(results.parent, detco=new["hash"])).split("## mini · superseded recipes")[1]
    names = [f"detco\\@{make()['recipe']['hash'][:8]}", f"detco\\@{third['hash'][:8]}"]
    assert f"- {names[1]}: config.method.bank_size: 64 != 512" in earlier
    shown = scores(earlier, "superseded · coco_maskrcnn_c4")
    assert [shown[f"{name} §"]["bbox_AP"] for name in names] == ["24.5 ± 0.2", "10.0 †"]


def test_the_checkpoints_of_a_scale_are_listed_and_several_of_one_seed_named(results, make):
    def listed(page):
        return [row[:1] + row[3:] for row in grid(page, "## mini · checkpoints")[1:]]

    held = f"`{make()['checkpoint']['hash'][:12]}`"
    assert listed(build(results))[0] == ["detco", "0", held, "coco_maskrcnn_c4"]
    assert "Several checkpoints" not in build(results)
    write(results, make("detco", task="knn", checkpoint={"hash": "0" * 64, "metadata": {}}))
    page = build(results)
    assert listed(page)[:2] == [["detco", "0", "`000000000000`", "knn"], ["detco", "0", held, "coco_maskrcnn_c4"]]
    assert "Several checkpoints under one recipe and seed: detco." in page


def test_changed_fields_stand_below_their_table(root, make):
    write(root, make(schedule="mini+0a1b2c3d", changes={"train_cfg.rcnn.num": 512}))
    assert "schedule mini+0a1b2c3d" in build(root) and "Changed: train_cfg.rcnn.num: 512." in build(root)


@pytest.mark.parametrize(("text", "shown"), [
    ("moco_v2", "moco_v2"), ("a|b", r"a\|b"), ("_a_ *b* `c`", r"\_a\_ \*b\* \`c\`"),
    ("[x](http://y)", r"\[x\](http\://y)"),
    ("<b>", r"\<b\>"), ("www.y.z", r"www\.y.z"), ("a\n# b", r"a \# b"),
    ("@you $x$", r"\@you \$x\$"), ("a\\|", r"a\\\|"),
])
def test_escaped(text, shown):
    assert escaped(text) == shown


def test_versions_scales_and_schedules_never_share_a_table(make):
    records = [make(scale="mini"), make(scale="one_gpu"), make(scale="small"),
               make(task_version=2, protocol_fingerprint="a" * 64),
               make(scale="paper", schedule="12k"), make(scale="paper", schedule="1x"), make("moco_v2"),
               make(scale="another"), make(schedule="mini+resnet50", arch="resnet50")]
    found = tables(records)
    assert [(scale, arch, version, schedule) for scale, arch, _, version, schedule in found] == [
        ("paper", "", 1, "12k"), ("paper", "", 1, "1x"), ("one_gpu", "", 1, "mini"), ("small", "", 1, "mini"),
        ("mini", "", 1, "mini"), ("mini", "", 2, "mini"), ("mini", "resnet50", 1, "mini+resnet50"),
        ("another", "", 1, "mini")]
    assert len(found["mini", "", "coco_maskrcnn_c4", 1, "mini"]) == 2


def test_rows_of_another_backbone_have_a_part_of_their_own_and_leave_the_others_as_they_were(results, make, recipe):
    today = results.parent / "today.json"
    hashes = {name: recipe(name, arch="resnet18")["hash"] for name in ("detco", "moco_v2")}
    today.write_text(json.dumps({"mini": hashes}))
    before = build(results, today)
    stated = fingerprint({"arch": "resnet50"})
    write_protocol(results, {"arch": "resnet50"})
    for method, changes in (("detco", {}), ("moco_v2", {"bank_size": 1})):
        write(results, make(method, recipe=recipe(method, arch="resnet50", **changes), arch="resnet50",
                            schedule="mini+resnet50", protocol_fingerprint=stated))
    now = build(results, today)
    assert now.startswith(before.partition("\n## Reported")[0])  # of one scale and name, two recipes
    assert list(scores(now, "schedule mini+resnet50")) == ["detco", "moco_v2 §"]  # today's, but for the backbone
    assert [row[0] for row in grid(now, "## mini · resnet50 · overview")][1:] == ["detco", "moco_v2"]
    assert "## mini · resnet50 · checkpoints" in now
    html = pages(results)[results.parent / "site" / "index.html"]
    assert "--scale mini --task coco_maskrcnn_c4 --arch resnet50 --method detco" in html
    assert ARCHS == backbone.ARCHS


@pytest.mark.parametrize(("a", "b", "expected"), [
    ({"m": {"num": 512}}, {"m": {"num": 64}}, "m.num: 512 != 64"),
    ({"b": 1, "a": {"x": 1}}, {"b": 2, "a": {"x": 2}}, "a.x: 1 != 2"),
    ({"steps": [9, 11]}, {"steps": [9, 12]}, "steps[1]: 11 != 12"),
    ({"steps": [9]}, {"steps": [9, 12]}, "steps: [9] != [9, 12]"),
    ({"a": 1}, {"a": 1, "b": 2}, "b: absent != 2"),
    ({"a": 1}, {"a": 1.0}, "a: 1 != 1.0"),
    ({"a": {"x": 1}}, {"a": None}, "a: {'x': 1} != None"),
    ({"a": [1, {"x": 2}]}, {"a": [1, {"x": 2}]}, None),
])
def test_first_difference(a, b, expected):
    assert first_difference(a, b) == expected


def test_check_tells_a_stale_page_from_a_fresh_one(results, make, capsys):
    arguments = ["--results", str(results), "--output", str(results.parent / "page.md")]
    assert main([*arguments, "--check"]) == 1  # not there yet
    assert main(arguments) == 0 and main([*arguments, "--check"]) == 0
    capsys.readouterr()
    write(results, make("byol", 0))
    assert main([*arguments, "--check"]) == 1
    error = capsys.readouterr().err
    assert [line.split(" ")[0] for line in error.splitlines()] == [
        str(results.parent / "page.md"), str(results.parent / "site" / "index.html")]
    assert error.count("is stale: run python -m leaderboard") == 2
    assert "byol" not in (results.parent / "page.md").read_text(encoding="utf-8")  # --check writes nothing
    assert main(arguments) == 0 and main([*arguments, "--check"]) == 0


def test_the_page_does_not_depend_on_the_order_of_writing(results, make):
    page = build(results)
    shutil.rmtree(results)
    for seed in (2, 0, 1):
        for method in reversed(ALL):
            write(results, make(method, seed))
    assert build(results) == page


def test_no_results_make_a_page_without_tables_and_no_folder_an_error(tmp_path, capsys):
    assert "No results yet." in build(tmp_path) and "Reported" not in build(tmp_path)
    assert main(["--results", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such results folder" in capsys.readouterr().err


def test_the_reported_block_holds_every_value_of_its_tasks_and_no_other(results):
    page = build(results)
    with TABLES.open(encoding="utf-8", newline="") as file:
        published = list(csv.DictReader(file))
    keys = ("schedule", "method", "pretrain_epochs", "metric", "table", "value")
    expected = {tuple(row[key] for key in keys) for row in published if row["task"] == "coco_maskrcnn_c4"}
    found = set()
    for schedule in ("12k", "1x", "2x"):
        header, *rows = grid(page, f"### Reported: coco_maskrcnn_c4 · {schedule}")
        for row in rows:
            cells = dict(zip(header, row))
            method, epochs, table = (cells.pop(key) for key in ("method", "pretraining epochs", "table"))
            found |= {(schedule, method, epochs.replace("—", ""), metric, table, value)
                      for metric, value in cells.items() if value != "—"}
    assert found == expected and len(expected) == 144
    assert page.index("not measured here") > page.index("## mini")
    assert page.count("### Reported") == 3 and "retinanet" not in page


def test_every_published_figure_has_a_cell():
    with TABLES.open(encoding="utf-8", newline="") as file:
        published = list(csv.DictReader(file))
    blocks = published_tables({row["task"] for row in published})
    assert set(blocks) == {(row["task"], row["schedule"]) for row in published}
    for (task, schedule), text in blocks.items():
        values = [row["value"] for row in published if (row["task"], row["schedule"]) == (task, schedule)]
        shown = [cell for row in grid("start\n" + text, "start")[1:] for cell in row[2:-1] if cell != "—"]
        assert sorted(shown) == sorted(values)


def test_the_console_table_orders_marks_and_counts(make):
    records = [make("moco_v2", 0), make("detco", 0), make("detco", 1)]
    header, _, first, second = format_rows(records, highlight="detco").splitlines()
    assert header.split() == ["method", *metric_columns(records), "runs", "spread", "over"]
    assert first.split()[:5] == ["->", "detco", "24.1", "±", "0.2"] and first.split()[-2:] == ["2", "transfers"]
    assert second.split()[:3] == ["moco_v2", "23.0", "†"]
    with pytest.raises(RecordError, match="one scale, task, version and schedule, not of 2"):
        format_rows([*records, make(scale="small")])


def test_the_console_comparison(make):
    records = [make(method, seed) for method in ALL for seed in range(3)]
    text = format_comparison(records, "supervised")
    assert "detco - supervised" in text and "supervised - supervised" not in text
    assert len(text.splitlines()) == 2 + 2 * 3
    with pytest.raises(RecordError, match="no result of 'byol' to compare with; there are: detco, moco_v2"):
        format_comparison(records, "byol")
    assert format_comparison(records[:3], "random_init").startswith("nothing to compare yet")


def _sparse(path):
    with path.open("wb") as file:
        file.truncate(100_000_000)


def _loop(path):
    path.unlink()
    path.symlink_to(path.name)


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def _folder(path):
    path.unlink()
    path.mkdir()


def _edit(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(("harm", "words"), [
    (_edit('"bbox_AP": 24.0', '"bbox_AP": Infinity'), "Infinity is no JSON number"),
    (_edit('"bbox_AP": 24.0', '"bbox_AP": 1e999'), "'1e999' is beyond any number"),
    (_edit('"bbox_AP": 24.0', '"bbox_AP": 1e308'), "field 'metrics.bbox_AP' is 1e+308; it must be at most 100"),
    (_edit('"bbox_AP": 24.0', '"bbox_AP": 250'), "field 'metrics.bbox_AP' is 250; it must be at most 100"),
    (_edit('"seed": 0', '"seed": 0.0'), "field 'seed' is 0.0; it must be integer"),
    (_edit('"limit": null', '"limit": null, "limit": null'), "field 'limit' stands twice"),
    (_edit('"schema": 2', '"schema": 3'), "field 'schema' is 3; this version reads schema 2"),
    (_edit('"disc"', '"<img src=x>\\n# heading"'), "a name in 'per_class.bbox'"),
    (lambda path: path.write_text("[" * 100_000), "recursion"),
    (lambda path: path.write_bytes(path.read_bytes().replace(b"disc", b"di\xffc")), "'utf-8' codec can't decode"),
    (_sparse, "100 MB, where the largest may have 4; remove it"),
    (_loop, "cannot be read (Too many levels of symbolic links)"),
    (_pipe, "a folder, pipe or device, not a file; remove it"),
    (_folder, "a folder, pipe or device, not a file; remove it")])
def test_whatever_lies_among_the_records_is_named_in_one_line_and_harms_nothing(harm, words, results, capsys):
    page, path = results.parent / "page.md", results / "mini" / "coco_maskrcnn_c4" / "detco-p0-s0.json"
    assert main(["--results", str(results), "--output", str(page)]) == 0
    before = page.read_bytes()
    harm(path)
    capsys.readouterr()
    assert main(["--results", str(results), "--output", str(page)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"error: {path}: " in line and words in line and page.read_bytes() == before


INJECTIONS = ["<script>alert(1)</script>", "a|b|c", "# heading", "](http://x)", "![x](y)", "`code`", "**bold**",
              "@all", "$x$", "<!-- x", "a\n# b"]


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_field_that_reaches_the_page_makes_markup(text, results, make):
    """Those that the schema leaves free: names of classes and rows are held to a pattern."""
    for field, value in (("unreliable", text), ("changes", {"train_cfg.x": text}),
                         ("environment", {"versions": {"torch": text, "mmdet": text}, "platform": text, "commit": None,
                                          "dirty": False}),
                         ("cost", make()["cost"] | {"device": text})):
        try:
            write(results, make("detco", 5, schedule="mini+0a", **{field: value}))
        except RecordError:
            continue  # refused is as good
        page = build(results)
        for line in page.splitlines():
            assert not line.startswith(("# b", "# heading"))
            assert not re.search(r"(?<!\\)(<script|<!-- x|!\[x\]\(y|@all)", line), (field, line)
        assert page.count("\n# ") == 0
