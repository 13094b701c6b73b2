"""The speed benchmark: its rivals compute what ours computes, and a run leaves its figures and its page."""
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from baselines.moco_v2 import MoCoV2
from benchmarks import speed
from benchmarks.timing import epoch, measure, parts, rivals
from benchmarks.timing import page as speed_page
from detco import engine
from detco.detco import DetCo

GLOBAL, LOCAL = dict(size=32, blur_sigma=(0.1, 0.5)), dict(size=36, area=(0.6, 1.0), grid=3, patch=10)
SETTINGS = measure.Settings(torch.device("cpu"), "resnet18", 2, 256, 2, False, None)


@pytest.fixture
def method():
    torch.manual_seed(0)
    return DetCo("resnet18", GLOBAL, LOCAL, bank_size=20, dim=16, momentum=0.9, bn_splits=1)


def batches(method, steps=3):
    for number in range(steps):
        method.seed_step(0, number, 0)
        generator = torch.Generator().manual_seed(number)
        yield method.views({"images": torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8, generator=generator)})


def test_the_plain_implementation_takes_ours_steps(method):
    plain = rivals.PlainDetCo(method)
    optimizer = torch.optim.SGD(method.encoder.parameters(), **rivals.SGD)
    for views in batches(method):
        loss = sum(method.loss(views).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step()
        torch.testing.assert_close(plain(views), loss.detach(), rtol=1e-3, atol=1e-3)
    for name, bank in method.banks.items():
        torch.testing.assert_close(plain.banks[name], bank.keys, rtol=0, atol=5e-2)


def test_lightlys_moco_v2_contrasts_as_ours():
    """With the same weights and the same bank, the first step's loss is the same."""
    pytest.importorskip("lightly")
    torch.manual_seed(0)
    ours = MoCoV2("resnet18", GLOBAL, bank_size=64, bn_splits=1)
    theirs = rivals.LightlyMoCoV2("resnet18", 64, ours.temperature, ours.momentum_encoder.momentum)
    [views] = batches(ours, 1)
    with torch.no_grad():
        for parts, parameters in (((theirs.backbone, theirs.projection_head), ours.encoder.parameters()),
                                  ((theirs.backbone_momentum, theirs.head_momentum), ours.encoder.parameters())):
            for own, other in zip([p for part in parts for p in part.parameters()], parameters, strict=True):
                own.copy_(other)
        theirs.criterion.memory_bank.bank.copy_(ours.bank.keys)
    torch.testing.assert_close(theirs(views), ours.loss(views)["loss"].detach(), rtol=1e-4, atol=1e-4)


def test_the_bare_encoder_sees_every_view_and_keeps_no_gradient(method, monkeypatch):
    seen = []
    forward = rivals.ResNetLevels.forward
    monkeypatch.setattr(rivals.ResNetLevels, "forward",
                        lambda self, x: seen.append((tuple(x.shape), torch.is_grad_enabled())) or forward(self, x))
    [views] = batches(method, 1)
    rivals.bare_step("resnet18", views, torch.device("cpu"), amp=False)()
    assert sorted(seen) == [((4, 3, 32, 32), False), ((4, 3, 32, 32), True),
                            ((36, 3, 10, 10), False), ((36, 3, 10, 10), True)]


def test_pil_views_have_ours_shapes(method):
    [ours] = batches(method, 1)
    theirs = rivals.PilViews(method.view_specs)(Image.new("RGB", (60, 50), (90, 20, 200)))
    assert {name: view.shape for name, view in theirs.items()} == {name: view.shape[1:] for name, view in ours.items()}


def test_sides_take_turns_and_ratios_are_round_by_round(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def side(name, seconds):
        def step():
            order.append(name)
            clock[0] += seconds
        return step

    settings = replace(SETTINGS, repeats=4)
    seconds = measure.interleaved({"ours": side("a", 2.0), "other": side("b", 3.0)}, settings)
    assert "".join(order[4:]) == "abbaabba"
    row = measure.compared("it", seconds, "ours", "other")
    assert (row["ours"], row["other"], row["ratio"], row["repeats"]) == (2.0, 3.0, 1.5, 4)


def test_memory_counts_banks_and_losses_whatever_the_process_held_before():
    held = torch.ones(300_000_000)  # 1.2 GB
    settings = replace(SETTINGS, bank=8192)
    [row] = parts.memory(settings)
    assert row["MB of banks"] == pytest.approx(8 * 8192 * 128 * 4 / 1e6) and len(held)
    assert row["MB of banks"] < row["MB in all"] < 300


def test_a_run_keeps_other_parts_figures_and_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--arch", "resnet18", "--batch", "2", "--bank", "256", "--repeats", "2", "--device", "cpu",
             "--out", str(tmp_path / "speed")]
    assert speed.main(["memory", *small]) == 0
    assert speed.main(["plain", *small]) == 0
    [path] = (tmp_path / "speed").glob("*.json")
    figures = json.loads(path.read_text())
    assert set(figures) == {"memory", "plain"} and figures["plain"]["settings"]["bank"] == 256
    page = (tmp_path / "speed.md").read_text()
    assert "plain DetCo in float32" in page and "MB of banks" in page
    assert "No GPU has been measured yet" in (tmp_path / "scaling.md").read_text()
    assert str(tmp_path / "speed.md") in capsys.readouterr().out
    assert speed.main(["nothing", *small]) == 2
    assert speed.main(["memory", *small, "--repeats", "1"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def figures_of(tmp_path, monkeypatch, *parts):
    """What small runs of some parts file."""
    monkeypatch.chdir(tmp_path)
    assert speed.main([*parts, "--arch", "resnet18", "--batch", "2", "--bank", "256", "--repeats", "2",
                       "--out", str(tmp_path / "speed")]) == 0
    [path] = (tmp_path / "speed").glob("*.json")
    return json.loads(path.read_text())


def test_what_remains_is_what_the_bare_encoder_does_not_do(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "SHOWN", 1000)
    *rows, others, together = figures_of(tmp_path, monkeypatch, "remains", "--device", "cpu")["remains"]["rows"]
    own = {row["operator"]: row for row in rows}
    assert own["_fused_sgd_"]["bare, ms"] == 0 < own["_fused_sgd_"]["step, ms"]
    assert own["mkldnn_convolution"]["bare, ms"] > 0 and others["step, ms"] == 0
    assert together["more, ms"] == pytest.approx(together["step, ms"] - together["bare, ms"])


def test_the_engines_own_step_is_timed_beside_one_by_hand(tmp_path, monkeypatch):
    calls, run_iter = [], engine.PretrainLoop.run_iter
    monkeypatch.setattr(engine.PretrainLoop, "run_iter", lambda self, *a: calls.append(1) or run_iter(self, *a))
    [row] = figures_of(tmp_path, monkeypatch, "loop")["loop"]["rows"]
    assert row["ours"] > 0 and row["other"] > 0 and len(calls) >= 4 and not parts.CONSOLE.quiet


@pytest.mark.slow  # real sizes of memory and scaling
def test_every_row_that_has_a_target_is_found(tmp_path, monkeypatch):
    pytest.importorskip("lightly")
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    figures = figures_of(tmp_path, monkeypatch, "encoder", "plain", "lightly", "memory", "loader", "scaling",
                         *["few_pixels"] * (kind == "cpu"))
    known = sum(kind in target for *_, target, _ in speed_page.TARGETS)
    assert len(speed_page.targets(figures).splitlines()) == 2 + known


def test_targets_stand_beside_what_was_measured():
    figures = dict(
        encoder=dict(device="cpu", rows=[dict(what="bare encoder, both in float32", ratio=0.8)]),
        plain=dict(device="cuda", rows=[dict(what="plain DetCo in float32, ours in float32", ratio=1.6),
                                        dict(what="plain DetCo in float32, ours in bfloat16", ratio=2.5)]),
        scaling=dict(device="cpu", rows=[{"against": kind, "value": value, "ms": ms} for kind, value, ms in (
            ("batch", 1, 1.0), ("batch", 2, 1.5), ("batch", 4, 8.0), ("levels", 1, 3.0), ("levels", 2, 5.0))]))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in speed_page.targets(figures).splitlines()[2:]]
    assert [cell[1:] for cell in cells] == [
        ["at most 1.1", "1.25", "no"], ["at least 1.5", "1.6", "yes"], ["at least 3", "2.5", "no"],
        ["at most 1.05", "1.5", "no"]]


def test_a_whole_step_of_each_method_is_timed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert speed.main(["step", "--arch", "resnet18", "--batch", "2", "--bank", "256", "--repeats", "2", "--device",
                       "cpu", "--out", str(tmp_path / "speed")]) == 0
    [path] = (tmp_path / "speed").glob("*.json")
    rows = json.loads(path.read_text())["step"]["rows"]
    assert [row["method"] for row in rows] == ["detco", "moco_v2"]
    for row in rows:
        assert row["images a second"] == pytest.approx(2000 / (row["views, ms"] + row["the rest, ms"]))
    assert "Eight of" not in (tmp_path / "scaling.md").read_text()  # not the paper's step


def test_traffic_of_a_step_is_counted_from_the_papers_configurations():
    """By hand: MoCo v2 trains ResNet-50 to its pooled map (23,508,032) and an MLP of 2048 and 128 (4,458,624)."""
    moco, detco = (epoch.counts(name) for name in ("moco_v2", "detco"))
    assert moco["gradients"] == round(2 * 7 / 8 * 4 * (23_508_032 + 4_458_624))
    assert moco["views"] == 7 / 8 * 32 * 12 * 224**2 and moco["crops"] == 32 * 3 * 2 * 224**2
    assert moco["keys"] == 7 / 8 * 256 * 4 * 128 and detco["keys"] == 8 * moco["keys"]
    assert detco["views"] == 7 / 8 * 32 * 12 * (224**2 + 9 * 64**2)
    assert detco["crops"] == 32 * 3 * 2 * (224**2 + 255**2)


def test_an_epoch_follows_from_the_step_and_the_traffic():
    rows = [{"method": name, "precision": p, "images a second": rate}
            for name, p, rate in (("detco", "float32", 100.0), ("detco", "bfloat16", 320.0),
                                  ("moco_v2", "bfloat16", 640.0), ("moco_v2", "bfloat16 compiled", 900.0))]
    figures = dict(step=dict(rows=rows, device="cuda", machine="a GPU", settings=epoch.STEP | dict(repeats=7)),
                   loader=dict(rows=[dict(ours=0.005)]))
    page = epoch.page([figures])
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:4]]
             for row in page.splitlines() if row.startswith("|")}
    assert cells["step of 32 images, views drawn, crops copied, ms"] == ["101", "50"]
    assert cells["images a second, eight devices"] == ["2,532", "5,071"]
    # 5005 steps of 0.1 s; with 591 MB at 25 GB/s and 22 MB at 20 GB/s on top 0.1247 s.
    assert cells["an epoch, minutes"][0] == "8 to 10"
    assert cells["200 epochs, days"][0] == "1.2 to 1.4"
    assert cells["images a second that 12 workers give it"][0] == "2,400"
    assert "No GPU" not in page
    figures["step"]["settings"]["arch"] = "resnet18"
    assert "Eight of" in page and "Eight of" not in epoch.page([figures])
