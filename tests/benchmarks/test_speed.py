"""The speed benchmark: its rivals compute what ours computes, and a run leaves its figures and its page."""
import json

import pytest
import torch
from PIL import Image

from baselines.moco_v2 import MoCoV2
from benchmarks import rivals, speed
from detco.detco import DetCo

GLOBAL, LOCAL = dict(size=32, blur_sigma=(0.1, 0.5)), dict(size=36, area=(0.6, 1.0), grid=3, patch=10)


@pytest.fixture
def method():
    torch.manual_seed(0)
    return DetCo("resnet18", GLOBAL, LOCAL, bank_size=20, dim=16, momentum=0.9)


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
    pytest.importorskip("lightly")
    torch.manual_seed(0)
    ours = MoCoV2("resnet18", GLOBAL, bank_size=64)
    theirs = rivals.LightlyMoCoV2("resnet18", 64, ours.temperature, ours.twin.momentum)
    shapes = [p.shape for p in ours.encoder.parameters()]
    assert shapes == [p.shape for part in (theirs.backbone, theirs.projection_head) for p in part.parameters()]
    losses = [theirs(views) for views in batches(ours)]
    assert all(0 < loss < 8 for loss in losses)  # ln 65 is 4.2


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
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])

    def side(name, seconds):
        def step():
            order.append(name)
            clock[0] += seconds
        return step

    arguments = speed.parser().parse_args(["--repeats", "4"])
    arguments.device = torch.device("cpu")
    seconds = speed.interleaved({"ours": side("a", 2.0), "other": side("b", 3.0)}, arguments)
    assert "".join(order[4:]) == "abbaabba"
    row = speed.compared("it", seconds, "ours", "other")
    assert (row["ours"], row["other"], row["ratio"], row["repeats"]) == (2.0, 3.0, 1.5, 4)


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
    assert str(tmp_path / "speed.md") in capsys.readouterr().out
    assert speed.main(["nothing", *small]) == 2
    assert speed.main(["memory", *small, "--repeats", "1"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
