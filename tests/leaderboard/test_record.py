"""The record seam: what is refused, what is written, and that no partial file is ever seen."""
import copy
import json
import os
import re
import subprocess
import sys

import pytest

from leaderboard.errors import RecordError
from leaderboard.record import (
    HERE,
    brief_report,
    fingerprint,
    read_all,
    required_of_name,
    result_path,
    write,
    write_text,
)

SCHEMA = json.loads((HERE / "schema.json").read_text(encoding="utf-8"))
OPTIONAL = {"tuning"}
SEARCH = {"chosen": {"optimizer.lr": 0.1}, "held_out": 20,
          "trials": [{"values": {"optimizer.lr": rate}, "score": rate, "wall_seconds": 2.5} for rate in (0.1, 0.05)]}
DOCS = HERE.parent / "docs" / "records.md"


def fields(schema, path=""):
    """Dotted path -> what the schema says of it, for every field that is named."""
    found = {}
    for name, own in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        found |= {here: own} | fields(own, here)
    return found


def word(own):
    """A field's type as docs/records.md writes it."""
    if "const" in own:
        return str(own["const"])
    reference = own.get("$ref", "").rsplit("/")[-1]
    reference = {"row": "name", "pool": "hash"}.get(reference, reference)
    kinds = own.get("type", reference)
    return " or ".join(kind if kind == "null" else reference or kind
                       for kind in ([kinds] if isinstance(kinds, str) else kinds))


def test_the_page_on_records_and_the_schema_say_the_same():
    text = DOCS.read_text(encoding="utf-8").split("## Fields")[1].split("\n## ")[0]
    documented = {name: kind for name, kind in re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", text, re.MULTILINE)}
    assert documented == {name: word(own) for name, own in fields(SCHEMA).items()}


def test_every_field_is_required_and_no_other_allowed_where_none_is_free():
    free = {"metrics", "per_class", "train_losses", "changes", "recipe.config", "checkpoint.metadata",
            "checkpoint.metadata.budget", "environment.versions", "tuning.chosen"}
    for name, own in [("", SCHEMA), *fields(SCHEMA).items()]:
        if "object" in own.get("type", "") and name not in free:
            assert own["required"] == [key for key in own["properties"] if key not in OPTIONAL], name
            assert own["additionalProperties"] is False, name


def test_the_factory_makes_every_field(make):
    def present(value, path=""):
        names = {f"{path}.{key}" if path else key: own for key, own in value.items()}
        return set(names).union(*(present(own, name) for name, own in names.items() if isinstance(own, dict)))

    assert set(fields(SCHEMA)) - present(make(tuning=SEARCH)) == {"checkpoint.metadata.recipe_config"}


@pytest.fixture(scope="module")
def shipped():
    return read_all(HERE / "results")


def test_the_shipped_records_keep_the_contract_and_their_recipes(shipped):
    assert shipped and all(record["recipe"]["hash"] == fingerprint(record["recipe"]["config"]) for record in shipped)


def test_a_record_comes_back_as_it_was_written(root, make):
    records = [make(method, seed) for method in ("detco", "moco_v2") for seed in (0, 1)]
    for record in reversed(records):
        write(root, record)
    assert read_all(root) == records  # in the order of their paths
    text = (root / "mini/coco_maskrcnn_c4/detco-p0-s0.json").read_text()
    assert text.endswith("}\n") and text.startswith('{\n "arch"')  # sorted keys, indent 1


def test_path_of_a_record(root, make):
    small = make(scale="small", schedule="small")
    assert result_path(root, small) == root / "small/coco_maskrcnn_c4/detco-p0-s0.json"
    assert result_path(root, small | {"schedule": "10%"}).parent.name == "10%"
    assert result_path(root, small | {"schedule": ""}) == result_path(root, small)
    assert result_path(root, small | {"pretrain_seed": None}).name == "detco-s0.json"
    paper = make(seed=3, pretrain_seed=2, scale="paper", schedule="2x")
    assert write(root, paper) == root / "paper/coco_maskrcnn_c4/2x/detco-p2-s3.json"
    write(root, make(seed=3, scale="paper", schedule="mini+0a1b2c3d"))
    assert len(read_all(root)) == 2


@pytest.mark.parametrize("field", [name for name in fields(SCHEMA)
                                   if not name.startswith("checkpoint.metadata.") and name not in OPTIONAL])
def test_a_missing_field_is_named(tmp_path, make, field):
    record = make(tuning=copy.deepcopy(SEARCH))
    *parents, last = field.split(".")
    holder = record
    for part in parents:
        holder = holder[part]
    del holder[last]
    with pytest.raises(RecordError, match=f"^field '{re.escape(field)}' is missing$"):
        write(tmp_path, record)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("field", "value", "message"), [
    ("schema", 1, "'schema' is 1; this version reads schema 2"),
    ("schema", "2", "'schema' is '2'; it must be 2"),
    ("seed", True, "'seed' is True; it must be integer"),
    ("seed", "0", "'seed' is '0'; it must be integer"),
    ("seed", 1.0, "'seed' is 1.0; it must be integer"),
    ("seed", -1, "'seed' is -1; it must be at least 0"),
    ("seed", 2 ** 32, "'seed' is 4294967296; it must be at most 4294967295"),
    ("pretrain_seed", -1, "'pretrain_seed' is -1; it must be at least 0"),
    ("detections", 7, "'detections' is 7; it must be string or null"),
    ("tuning", SEARCH | {"held_out": 0}, "'tuning.held_out' is 0; it must be percent of the training images"),
    ("tuning", SEARCH | {"trials": SEARCH["trials"][:1]}, "it must be two trials or more"),
    ("tuning", SEARCH | {"chosen": {"<b>\n": 1}}, "a name in 'tuning.chosen' is"),
    ("tuning", SEARCH | {"trials": [{"values": {}, "score": "x", "wall_seconds": 1}] * 2},
     ".score' is 'x'; it must be number or null"),
    ("scale", "", "'scale' is ''; it must be at most 100 letters"),
    ("method", "../detco", "'method' is '../detco'; it must be at most 100 letters"),
    ("method", "a|b", "'method' is 'a|b'"),
    ("method", "<b>a</b>", "'method' is '<b>a</b>'"),
    ("method", "detco\n", r"'method' is 'detco\n'"),
    ("method", "a" * 101, "'method' is 'aaa"),
    ("method", "detco-p1", "not ending like -p0 or -s0"),  # its row without -p would have detco's path
    ("task", "", "'task' is ''"),
    ("schedule", "a/b", "'schedule' is 'a/b'"),
    ("data_fingerprint", "unknown", "'data_fingerprint' is 'unknown'; it must be 12 to 64 hex digits"),
    ("protocol_fingerprint", "a" * 12, "must be 64 hex digits"),
    ("metrics", {"bbox_AP": "23"}, "'metrics.bbox_AP' is '23'; it must be number or null"),
    ("metrics", {"bbox_AP": 250.0}, "'metrics.bbox_AP' is 250.0; it must be at most 100"),
    ("metrics", {"bbox_AP": -1.0}, "'metrics.bbox_AP' is -1.0; it must be at least 0"),
    ("metrics", {"bbox_AP": 1e308}, "it must be at most 100"),
    ("metrics", {"bbox_AP": 2.0, "a|b": 1.0}, "a name in 'metrics' is 'a|b'; it must be"),
    ("metrics", {"speed": 2.0}, "'main_metric' is 'bbox_AP', which 'metrics' does not hold"),
    ("per_class", {"bbox": {"a\nb": 1.0}}, r"a name in 'per_class.bbox' is 'a\nb'; it must be one line"),
    ("per_class", {"bbox": {"a": 101}}, "'per_class.bbox.a' is 101; it must be at most 100"),
    ("load_report", {"loaded": 1} | {key: {"count": 0, "first": []} for key in ("missing", "unexpected", "ignored")}
     | {"fresh": {"count": 9, "first": ["a"] * 9}},
     "'load_report.fresh.first' is ['a', 'a', 'a', 'a', 'a', 'a', ...]; it must be a list of at most eight names"),
    ("unreliable", True, "'unreliable' is True; it must be string or null"),
    ("unreliable", "a\n# heading", "'unreliable' is 'a"),
    ("unreliable", "seen \u202egnisrever", "it must be one line"),
    ("config", {}, "'(the whole record)' holds 'config', which docs/records.md does not know"),
    ("limit", 0, "'limit' is 0; it must be at least 1"),
    ("data", {"source": "coco", "images": {"train": 600}}, "'data.images.val' is missing"),
    ("recipe", {"hash": "b" * 64, "config": {"lr": 1}, "pool": None}, "'recipe.hash' is bbb"),
    ("checkpoint", {"hash": "b" * 64, "metadata": {"recipe_config": {}}}, "'checkpoint.metadata.recipe_config' is {}"),
])
def test_a_bad_field_is_named(tmp_path, make, field, value, message):
    with pytest.raises(RecordError) as error:
        write(tmp_path, make() | {field: value})
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["detco", "detco-p", "DetCo_v2.1+0a1b"])
def test_the_rule_of_names_passes_a_good_one(name):
    assert required_of_name(name) == ""


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "/a", "a\n", "detco-s0", "a" * 101])
def test_the_rule_of_names_is_said_of_a_bad_one(name):
    assert required_of_name(name).startswith("at most 100 letters, digits and _ . + % -")


def test_a_foreign_checkpoint_has_neither_seed_nor_recipe(root, make):
    foreign = make("byol", pretrain_seed=None, recipe=dict.fromkeys(("hash", "config", "pool")))
    assert read_all(root) == [] and write(root, foreign).name == "byol-s0.json" and read_all(root) == [foreign]


@pytest.mark.parametrize(("change", "message"), [
    (lambda text: text[:20], "Expecting|Unterminated"),
    (lambda text: "[]", "the whole record.* must be object"),
    (lambda text: text.replace('"seed": 0', '"seed": 0, "seed": 1'), "field 'seed' stands twice"),
    (lambda text: text.replace("1500000000", "Infinity"), "Infinity is no JSON number; write null"),
    (lambda text: text.replace("84.0", "NaN"), "NaN is no JSON number"),
    (lambda text: text.replace("84.0", "1e999"), "'1e999' is beyond any number"),
    (lambda text: "[" * 100_000, "recursion"),
    (lambda text: text.replace("Linux", "\u00ff").encode("latin-1"), "utf-8"),
    (lambda text: text.replace('"limit": null', '"limit": 8'), "field 'limit' is set: a shortened run"),
])
def test_reading_a_damaged_file_names_it_in_one_line(root, make, change, message):
    path = write(root, make())
    damaged = change(path.read_text())
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    with pytest.raises(RecordError, match=f"detco-p0-s0.json: .*(?:{message})") as error:
        read_all(root)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(RecordError, match="nowhere"):
        read_all(tmp_path / "nowhere")


def test_a_misfiled_record_is_refused(root, make):
    path = write(root, make())
    path.rename(path.with_name("detco-p0-s1.json"))
    with pytest.raises(RecordError, match="detco-p0-s1.json: its fields say it is .*detco-p0-s0.json"):
        read_all(root)


def test_not_a_number_becomes_null(root, make):
    record = make(metrics={"bbox_AP": 1.0, "segm_AP": float("nan")}, per_class={"bbox": {"disc": float("inf")}})
    stored = json.loads(write(root, record).read_text(), parse_constant=pytest.fail)
    assert stored["metrics"] == {"bbox_AP": 1.0, "segm_AP": None}
    assert stored["per_class"] == {"bbox": {"disc": None}}
    assert record["per_class"]["bbox"]["disc"] == float("inf")  # the caller's record is left alone


def test_what_json_cannot_hold_leaves_the_old_file_alone(root, make):
    path = write(root, make())
    before = path.read_bytes()
    with pytest.raises(RecordError, match="detco s0 is not JSON: .*set"):
        write(root, make(per_class={"disc": {1, 2}}))
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_failing_disk_leaves_the_old_file_and_no_partial_one(root, make, monkeypatch, step):
    path = write(root, make())
    before = path.read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    def half(self, text, **options):
        self.write_bytes(text[:10].encode())
        full()

    if step == "replace":
        monkeypatch.setattr("leaderboard.record.os.replace", full)
    else:
        monkeypatch.setattr("leaderboard.record.Path.write_text", half)
    with pytest.raises(OSError, match="No space left"):
        write(root, make(arch="resnet50"))
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_readers_see_the_old_text_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "page.md"
    write_text(path, "old")
    seen, replace = [], os.replace

    def spy(source, target):
        seen.append((path.read_text(), source.read_text(), source.parent))
        replace(source, target)

    monkeypatch.setattr("leaderboard.record.os.replace", spy)
    write_text(path, "new")
    assert seen == [("old", "new", tmp_path)] and path.read_text() == "new"


def test_a_load_report_is_counted_and_cut_to_its_first_names():
    report = {"loaded": 3, "missing": [], "unexpected": ["a"], "ignored": {"b": "a head"},
              "fresh": [f"head.{i}" for i in range(20)]}
    assert brief_report(report) == {
        "loaded": 3, "missing": {"count": 0, "first": []}, "unexpected": {"count": 1, "first": ["a"]},
        "ignored": {"count": 1, "first": ["b"]}, "fresh": {"count": 20, "first": [f"head.{i}" for i in range(8)]}}
    assert brief_report({}) is None


def test_a_fingerprint_is_the_sha256_of_sorted_json():
    # printf '{"a": [1, 2.0], "b": null}' | sha256sum
    assert fingerprint({"b": None, "a": (1, 2.0)}) == "bd875cb0c864a4c2d6094ec21bfd3bc09a21435db8c9b37396ddd86ae47e0065"


def test_importing_the_room_brings_neither_torch_nor_another_room():
    code = ("import sys, leaderboard.__main__\n"
            "rooms = {'torch', 'numpy', 'scipy', 'jsonschema', 'mmdet', 'detco', 'baselines', 'benchmarks'}\n"
            "heavy = rooms & set(sys.modules)\n"
            "sys.exit(', '.join(sorted(heavy)) or 0)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=HERE.parent)
    assert (done.returncode, done.stderr) == (0, "")
