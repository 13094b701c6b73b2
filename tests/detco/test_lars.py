"""LARS against lightly's, which nobody here wrote."""
import pytest
import torch
from torch import nn

from detco.lars import LARS

lars = pytest.importorskip("lightly.utils.lars")


def test_steps_are_lightlys():
    """Of a matrix, a vector, one that starts at zero, and one without a slope."""
    draw = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(size, generator=draw)) for size in ((3, 4), (3, ), (5, ), (2, ))]
    ours[2].data.zero_()
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    settings = dict(lr=0.6, momentum=0.9, weight_decay=0.1)
    optimizers = LARS(ours, **settings, fused=True), lars.LARS(theirs, **settings)
    rest = ours[3].detach().clone()
    for _ in range(5):
        for i, pair in enumerate(zip(ours, theirs)):
            slope = torch.randn(pair[0].shape, generator=draw) * (i != 3)
            for p in pair:
                p.grad = slope.clone()
        for optimizer in optimizers:
            optimizer.step()
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert torch.equal(ours[3], rest) and optimizers[0].param_groups[0]["weight_decay"] == 0.1
