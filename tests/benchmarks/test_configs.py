"""Configs: every protocol frozen by its digest, what one file adds, what a user may change.

`python tests/benchmarks/test_configs.py` writes protocol_digests.json anew: after a protocol was changed on purpose,
with its task's version raised.
"""
import json
import shutil
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.data.sources import classes_of
from benchmarks.recipe import load_scale, resolve_recipe, scale_names
from benchmarks.task import defined_at, load_task, overrides_at, protocol_digest, resolve, source_of, task_names
from detco import config, engine
from detco.errors import UserError

DIGESTS = Path(__file__).with_name("protocol_digests.json")
NOWHERE = Path("no data here")  # so that classes are counted, not read
METHODS = config.names("pretrain")
ROWS = [(scale, task) for scale in scale_names() for task in task_names() if defined_at(task, load_scale(scale))]


def protocols(scale: str, task: str) -> dict[str, dict]:
    """Schedule -> the resolved config that a record of it has; schedule "" for a task that trains nothing."""
    loaded = load_scale(scale)
    classes = classes_of(loaded["data"], source_of(load_task(task)), NOWHERE)
    resolved = resolve(load_task(task), loaded["arch"], len(classes), overrides_at(task, loaded)).to_dict()
    schedules = resolved.pop("schedules", {"": None})
    return {name: resolved | dict(schedule=schedule, arch=loaded["arch"], classes=list(classes))
            for name, schedule in schedules.items()}


def digests() -> dict[str, dict[str, str]]:
    return {f"{scale} {task}": {name: protocol_digest(resolved) for name, resolved in protocols(scale, task).items()}
            for scale, task in ROWS}


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A copy of configs/ that is used in its place."""
    shutil.copytree(config.CONFIGS, tmp_path / "configs", ignore=shutil.ignore_patterns("*.txt", "__pycache__"))
    monkeypatch.setattr(config, "CONFIGS", tmp_path / "configs")
    return tmp_path / "configs"


def test_no_protocol_changes_unnoticed():
    assert digests() == json.loads(DIGESTS.read_text())


def test_helper_variables_stand_in_no_config():
    for kind in ("pretrain", "tasks", "scales"):
        for path in (config.CONFIGS / kind).glob("*.py"):
            assert not [key for key in config.load(path) if key.startswith("_") or key in ("norm", "stages")]
    assert config.load(config.CONFIGS / "tasks" / "coco_sparsercnn.py")["model"]["roi_head"]["num_stages"] == 6


def test_a_citation_is_no_part_of_a_protocol_and_a_number_is(configs):
    path = configs / "tasks" / "coco_retinanet_fpn.py"
    before = {name: protocol_digest(resolved) for name, resolved in protocols("mini", "coco_retinanet_fpn").items()}
    path.write_text(path.read_text().replace("DetCo table 5; ", "DetCo table 5. "))
    cited = protocols("mini", "coco_retinanet_fpn")
    assert cited["mini"]["task"]["source"] == "DetCo table 5. detectron2 Base-RetinaNet"
    assert {name: protocol_digest(resolved) for name, resolved in cited.items()} == before
    path.write_text(path.read_text().replace("version=3", "version=4"))
    assert protocol_digest(protocols("mini", "coco_retinanet_fpn")["mini"]) != before["mini"]


@pytest.mark.parametrize("name", [name for name in scale_names() if name != "paper"])
def test_every_rule_of_a_scale_fits_some_config(name):
    """A mistyped key would change nothing, unsaid."""
    scale = load_scale(name)
    for kind, known in (("pretrain", METHODS), ("tasks", [task for task in task_names() if defined_at(task, scale)])):
        written = [config.load_named(kind, other) for other in known]
        for condition, changes in scale[kind]:
            for key, value in changes.items():
                assert any(config.fitting(one, [(condition, {key: value})]) for one in written), (condition, key)


def test_one_gpu_is_the_paper_with_fewer_steps():
    ours, paper = load_scale("one_gpu"), load_scale("paper")
    for name in METHODS:
        a, b = (resolve_recipe(name, scale) for scale in (ours, paper))
        if name == "byol":  # a tenth of its paper's shorter schedule, with that one's values
            assert (a["schedule"]["epochs"], a["schedule"]["batch"], a["optimizer"]["lr"]) == (30, 256, 0.3)
            continue
        assert a["method"] == b["method"] and a["schedule"]["epochs"] * 10 == b["schedule"]["epochs"]
        assert a["schedule"]["batch"] == 256
        if "optimizer" in a:  # in proportion to the batch
            assert a["optimizer"]["lr"] / 256 == b["optimizer"]["lr"] / b["schedule"]["batch"]
    for scale, task in ROWS:
        if scale == "one_gpu":
            a, b = (next(iter(protocols(name, task).values())) for name in ("one_gpu", "paper"))
            assert {key for key in a if a[key] != b[key]} <= {"schedule"}
    assert protocols("one_gpu", "coco_maskrcnn_fpn") == {"12k": protocols("paper", "coco_maskrcnn_fpn")["12k"]}
    assert protocols("one_gpu", "coco_keypointrcnn_fpn").keys() == {"12k"}
    assert protocols("one_gpu", "coco_sparsercnn").keys() == {"27k"}
    assert protocols("one_gpu", "voc_fasterrcnn_c4")["6k"]["schedule"]["milestones"] == [4500, 5500]
    assert protocols("one_gpu", "cityscapes_maskrcnn_fpn")["6k"]["schedule"]["milestones"] == [4500]


def test_rules_go_by_parts_and_later_ones_over_earlier():
    written = dict(model=dict(neck=dict(type="FPN", width=256), head=None, stages=[dict(width=256), dict(width=128)]),
                   lr=0.1)
    rules = [("", {"lr": 1, "momentum": 2, "model.stages.*.width": 64}), ("model.neck", {"model.neck.width": 32}),
             ("model.head", {"lr": 3}), ("model.neck.type=FPN and lr", {"model.stages.1.width": 16}),
             ("model.neck.type=PAFPN", {"lr": 4}), ("model.neck and model.body", {"lr": 5})]
    assert config.fitting(written, rules) == {
        "lr": 1, "model.stages.0.width": 64, "model.stages.1.width": 16, "model.neck.width": 32}


# What one file adds


METHOD = '''
from torch import nn
from detco.backbone import ResNetLevels
from detco.method import Method
from detco.views import View


class Pair(Method):
    def __init__(self, arch="resnet50", global_view=None, margin=1.0):
        super().__init__()
        self.view_specs, self.encoder = {"image": View(**(global_view or {}))}, ResNetLevels(arch)

    def backbone(self):
        return self.encoder
'''
METHOD_CONFIG = '''"""A pair."""
method = dict(type="pair_method:Pair", arch="resnet50", global_view=dict(size=224, area=(0.3, 1.0)), margin=1.0)
optimizer = dict(lr=0.2)
schedule = dict(epochs=200, batch=512, policy="step", milestones=(120, ))
amp = True
scales = dict(mini={"optimizer.lr": 0.4})
'''


def test_a_method_is_a_class_and_a_config(configs, tmp_path, monkeypatch):
    (tmp_path / "pair_method.py").write_text(METHOD)
    (configs / "pretrain" / "pair.py").write_text(METHOD_CONFIG)
    monkeypatch.syspath_prepend(str(tmp_path))
    mini, small, paper = (resolve_recipe("pair", load_scale(name)) for name in ("mini", "small", "paper"))
    assert mini == dict(
        name="pair", amp=True, optimizer=dict(lr=0.4), schedule=dict(epochs=4, batch=32, policy="cosine"),
        method=dict(type="pair_method:Pair", arch="resnet18", global_view=dict(size=48, area=(0.3, 1.0)), margin=1.0))
    assert small["method"]["arch"] == "resnet18" and small["method"]["global_view"]["size"] == 64
    assert small["optimizer"] == paper["optimizer"] == dict(lr=0.2)
    assert paper["method"]["global_view"]["size"] == 224 and paper["schedule"]["milestones"] == (120, )
    assert paper == config.load_method("pair")
    method = engine.build(mini, 10)
    assert type(method).__name__ == "Pair" and method.encoder.arch == "resnet18"
    assert method.view_specs["image"].size == 48


TASK = '''# Faster R-CNN with FPN on COCO.
_base_ = ['../_base_/models/mask_rcnn_fpn.py', '../_base_/data/coco_detection.py', '../_base_/schedules/coco.py']

task = dict(name='coco_fasterrcnn_fpn', version=1, main_metric='bbox_AP', metrics=['bbox'], source='detectron2')
model = dict(
    type='FasterRCNN', data_preprocessor=dict(pad_mask=False), roi_head=dict(mask_head=None, mask_roi_extractor=None))
scales = dict(mini={'model.roi_head.bbox_head.fc_out_channels': 128})
'''


def test_a_detection_task_is_one_config(configs):
    path = configs / "tasks" / "coco_fasterrcnn_fpn.py"
    path.write_text(TASK)
    assert "coco_fasterrcnn_fpn" in task_names() and all(
        defined_at("coco_fasterrcnn_fpn", load_scale(name)) for name in scale_names())
    mini, small = (protocols(name, "coco_fasterrcnn_fpn")[name] for name in ("mini", "small"))
    assert mini["train_pipeline"][2]["scales"] == [(224, side) for side in (144, 152, 160, 168, 176)]
    assert mini["schedule"] == dict(iterations=200, milestones=[130, 175])
    model, roi_head = mini["model"], mini["model"]["roi_head"]
    assert model["neck"]["out_channels"] == model["rpn_head"]["in_channels"] == 64
    assert roi_head["bbox_roi_extractor"]["out_channels"] == roi_head["bbox_head"]["in_channels"] == 64
    assert model["neck"]["in_channels"] == [64, 128, 256, 512] and roi_head["mask_head"] is None
    assert roi_head["bbox_head"]["fc_out_channels"] == 128  # the task's own, over the scale's 256
    assert small["model"]["neck"]["out_channels"] == 64
    assert small["model"]["rpn_head"]["anchor_generator"]["scales"] == [4]
    assert small["data"]["total_batch"] == 4 and small["schedule"] == dict(iterations=300, milestones=[200, 265])
    assert "scales" not in mini
    path.write_text(TASK.replace("dict(mini=", "dict(mimi="))
    with pytest.raises(UserError, match="unknown scale 'mimi': did you mean mini"):
        overrides_at("coco_fasterrcnn_fpn", load_scale("mini"))


SCALE = '''"""Smaller than mini."""
_base_ = ['./mini.py']

arch = 'resnet34'
pretrain = [*_base_.pretrain, ('', {'method.arch': arch, 'method.global_view.size': 32})]
tasks = [*_base_.tasks, ('warmup', {'schedules': {'tiny': dict(iterations=8, milestones=[])}})]
'''


def test_a_scale_is_one_file(configs):
    (configs / "scales" / "tiny.py").write_text(SCALE)
    tiny, mini = load_scale("tiny"), load_scale("mini")
    assert "tiny" in scale_names() and tiny["name"] == "tiny" and tiny["description"] == "Smaller than mini."
    for method in METHODS:
        recipe, other = (resolve_recipe(method, scale)["method"] for scale in (tiny, mini))
        if method == "supervised_msra":  # its weights are of one architecture
            continue
        assert recipe["arch"] == "resnet34" and recipe.get("local_view") == other.get("local_view")
        assert recipe.get("global_view", {}).get("size") == (None if method == "random_init" else 32)
    for task in task_names():
        resolved = resolve(load_task(task), tiny["arch"], 5, overrides_at(task, tiny))
        assert "warmup" not in resolved or resolved.schedules == {"tiny": dict(iterations=8, milestones=[])}
        assert "model" not in resolved or resolved.model.backbone.depth == 34


def test_a_task_whose_data_a_scale_has_not_is_refused():
    small = load_scale("small")
    assert not defined_at("cityscapes_semseg_fcn", small) and defined_at("knn", small)
    with pytest.raises(UserError, match="the small scale has no cityscapes_semantic data"):
        overrides_at("cityscapes_semseg_fcn", small)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="unknown scale 'mimi': did you mean mini"):
        load_scale("mimi")
    with pytest.raises(UserError, match="unknown method 'detko': did you mean detco"):
        resolve_recipe("detko", load_scale("mini"))


# What a user may change


@pytest.mark.parametrize("words, change", [
    ("optimizer.lr=0.06", ("optimizer.lr", 0.06)), ("a.b=[1, 2]", ("a.b", [1, 2])), ("a=None", ("a", None)),
    ("a = sync", ("a", "sync")), ("a=x=y", ("a", "x=y")), ("a=", ("a", "")), ("a='3'", ("a", "3"))])
def test_a_change_is_read_as_a_literal_else_a_string(words, change):
    assert config.parse_change(words) == change


@pytest.mark.parametrize("words, line", [
    ("optimizer.lr", "'optimizer.lr' is no change: give key=value"), ("=3", "'=3' is no change"),
    ("a=1e999", "'a=1e999': give a finite number"), ("a={1, 2}", "give a finite number")])
def test_what_is_no_change_is_refused(words, line):
    with pytest.raises(UserError, match=line):
        config.parse_change(words)


OLD = dict(lr=0.1, on=True, name="sgd", sides=(1, 2), depth="{depth}", none=None, part=dict(size=3, items=[dict(n=1)]))


@pytest.mark.parametrize("key, value, found", [
    ("lr", 1, 1), ("on", False, False), ("name", "lars", "lars"), ("name", None, None), ("sides", [3], (3, )),
    ("sides", [], ()), ("depth", 50, 50), ("none", [1], [1]), ("part", dict(size=4), dict(size=4)),
    ("part", None, None)])
def test_a_change_of_its_kind_is_taken(key, value, found):
    changed = config.apply_changes(OLD, {key: value})
    assert changed == OLD | {key: found} and type(changed[key]) is type(found) and OLD["lr"] == 0.1


def test_changes_follow_each_other_into_lists():
    assert config.apply_changes(OLD, {"part": dict(size=1, items=[dict(n=5)]), "part.items.0.n": 2}) == OLD | {
        "part": dict(size=1, items=[dict(n=2)])}


@pytest.mark.parametrize("key, value, line", [
    ("lr", "fast", "lr='fast': the value there is 0.1; give a number"), ("lr", True, "give a number"),
    ("lr", None, "give a number"), ("on", 1, "give True or False"), ("name", 3, "give a string"),
    ("sides", 3, "give a list"), ("sides", [1, "x"], "give a list"), ("part", [1], "give a dict"),
    ("part.sise", 3, "unknown key 'part.sise': did you mean part.size"), ("size", 3, "did you mean part.size"),
    ("part.items.1.n", 3, "did you mean part.items.0.n"), ("lr.x", 3, "unknown key 'lr.x'"),
    ("sides.0", 3, "give 'sides' as a whole"), ("part.items.00.n", 3, "did you mean part.items.0.n"),
    ("part.items.*.n", 3, "did you mean part.items.0.n"), ("zzz", 3, "unknown key 'zzz': known: lr, on, name")])
def test_a_change_that_does_not_fit_is_refused(key, value, line):
    with pytest.raises(UserError) as error:
        config.apply_changes(OLD, {key: value})
    assert line in str(error.value) and "\n" not in str(error.value)


def test_changes_come_last_and_are_held_against_the_scale():
    mini = load_scale("mini")
    assert resolve_recipe("detco", mini, {"optimizer.lr": 0.06})["optimizer"]["lr"] == 0.06
    overrides = overrides_at("coco_maskrcnn_fpn", mini, {"schedules.mini.iterations": 50, "data.short_sides": (96, )})
    assert resolve(load_task("coco_maskrcnn_fpn"), "resnet18", 5, overrides).schedules.mini.iterations == 50
    assert overrides["data.short_sides"] == [96]
    with pytest.raises(UserError, match="'schedules.1x.iterations': did you mean schedules.mini.iterations"):
        overrides_at("coco_maskrcnn_fpn", mini, {"schedules.1x.iterations": 50})
    with pytest.raises(UserError, match="task.version: .* fixed"):
        overrides_at("coco_maskrcnn_fpn", mini, {"task.version": 9})


# What is generated


def test_recipes_are_generated_and_a_stale_file_is_found(configs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pages, "RECIPES", tmp_path / "recipes.json")
    monkeypatch.setattr(pages, "task_names", list)
    monkeypatch.setattr(pages, "PAGES", tmp_path / "tasks")
    (tmp_path / "tasks").mkdir()
    assert pages.main(["--check"]) == 1 and "recipes.json" in capsys.readouterr().err
    assert pages.main([]) == 0 and pages.main(["--check"]) == 0
    stored = json.loads((tmp_path / "recipes.json").read_text())
    recipe = resolve_recipe("detco", load_scale("mini"))
    assert stored["mini"]["detco"] == config.recipe_hash(recipe)
    assert stored["mini"]["detco"] == config.recipe_hash(recipe | dict(workers=1, max_broken=1.0, name="x"))
    path = configs / "pretrain" / "detco.py"
    path.write_text(path.read_text().replace("temperature=0.2", "temperature=0.1"))
    assert pages.main(["--check"]) == 1
    changed = json.loads(pages.recipes())
    made_of_it = ["detco", "detco_aa"]
    assert [name for name in METHODS if changed["mini"][name] != stored["mini"][name]] == made_of_it


if __name__ == "__main__":
    DIGESTS.write_text(json.dumps(digests(), indent=1) + "\n")
