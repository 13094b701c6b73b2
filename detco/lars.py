"""LARS (arXiv 1708.03888): stochastic gradient descent whose steps are in proportion to each layer's weights."""
import torch
from torch.optim import SGD

TRUST = 0.001  # SwAV's, BYOL's and the paper's


class LARS(SGD):
    """torch's SGD after each parameter's gradient g, weight decay d and parameter w are made
    TRUST |w| / (|g| + d |w|) (g + d w); where w or g is zero, g is taken as it is, without decay. Any parameter, biases
    and scales of norms too, as in the LARC of NVIDIA's apex without clipping."""

    @torch.no_grad()
    def step(self, closure=None):
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays):
            for p in (p for p in group["params"] if p.grad is not None):
                weight, slope = p.norm(), p.grad.norm()
                scaled = (weight > 0) & (slope > 0)
                scale = torch.where(scaled, TRUST * weight / (slope + decay * weight), 1.0)
                p.grad.addcmul_(p, decay * scaled).mul_(scale)
            group["weight_decay"] = 0.0
        try:
            return super().step(closure)
        finally:
            for group, decay in zip(self.param_groups, decays):
                group["weight_decay"] = decay
