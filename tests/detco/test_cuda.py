"""A GPU computes what the CPU does, and a step never waits for it. Skipped where there is none."""
import pytest
import torch
from torch.nn import functional as F

from baselines.moco_v2 import MoCoV2
from baselines.swav import SwAV
from benchmarks.timing.measure import own_step
from detco.auto_augment import POLICIES
from detco.detco import DetCo
from detco.loss import info_nce
from detco.views import View

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
GLOBAL, LOCAL = dict(size=32, blur_sigma=(0.1, 0.5)), dict(size=36, area=(0.6, 1.0), grid=3, patch=10)


def images(n=6):
    return torch.randint(0, 256, (n, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fields", [GLOBAL, LOCAL])
def test_views_are_those_of_the_cpu(fields):
    view = View(**fields)
    here, there = (view.finish(view.crop(images().to(device), generator), generator).cpu()
                   for device in ("cpu", "cuda") for generator in [torch.Generator().manual_seed(1)])
    # CPUs round crops to a grey level, 0.017 once normalised.
    torch.testing.assert_close(there, here, rtol=1e-3, atol=0.03)


@pytest.mark.parametrize("queries", [1, 5, 600])  # blocks of many rows and of few
def test_losses_and_gradients_are_those_of_the_cpu(queries):
    generator = torch.Generator().manual_seed(0)
    query, key, bank = (F.normalize(torch.randn(n, 16, generator=generator)) for n in (queries, queries, 20_000))
    found = []
    for device in ("cpu", "cuda"):
        own = query.to(device).requires_grad_()
        losses = info_nce(own, key.to(device), bank.to(device), 0.2)
        losses.sum().backward()
        found.append((losses.detach().cpu(), own.grad.cpu()))
    for there, here in zip(*found[::-1]):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("build", [
    lambda: DetCo("resnet18", GLOBAL, LOCAL, bank_size=20, dim=16, permute=True, bn_splits=3),
    *(lambda policy=policy: DetCo("resnet18", GLOBAL | dict(auto_augment=policy), LOCAL | dict(auto_augment=policy),
                                  bank_size=20, dim=16, bn_splits=3) for policy in POLICIES),
    lambda: SwAV("resnet18", GLOBAL, dict(size=16, area=(0.05, 0.14)), bank_size=20, prototypes=5, dim=16),
    lambda: MoCoV2("resnet18", GLOBAL, bank_size=20, dim=16, bn_splits=3)])
def test_a_step_never_waits_for_the_device(build, amp):
    method, views = build().cuda().to(memory_format=torch.channels_last), {}
    batch, taken = {"images": images().cuda()}, own_step(method, views, amp)

    def step():
        views.update(method.views(batch))
        taken()

    step()  # constants are made, kernels loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(p.isfinite().all() for p in method.parameters())
