"""AutoAugment's ImageNet policy (arXiv 1805.09501) and RandAugment (arXiv 1909.13719) on batches: from torchvision's
tables, with an operation and a magnitude of each image's own."""
import itertools
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

POLICIES = ("imagenet", "rand")


def _blend(x: Tensor, other: Tensor, magnitude: Tensor) -> Tensor:
    """1 + magnitude times x, less magnitude times the other, in whole grey levels."""
    return (x * (1 + magnitude)).addcmul_(other, -magnitude).clamp_(0, 255).floor_()


def _grey(x: Tensor) -> Tensor:
    return TF.rgb_to_grayscale(x).floor_()


def _sharpened(x: Tensor, magnitude: Tensor) -> Tensor:
    """All but the outermost pixels, against a 3 x 3 mean in which the centre counts five times."""
    if min(x.shape[-2:]) < 3:
        return x
    out = x.clone()
    inner = out[..., 1:-1, 1:-1]
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    mean = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]).add_(inner, alpha=4).div_(13).round_()
    inner.addcmul_(mean.sub_(inner), -magnitude).clamp_(0, 255).floor_()
    return out


def _moved(x: Tensor, xu: Tensor | float = 1.0, xv: Tensor | float = 0.0, x0: Tensor | float = 0.0,
           yu: Tensor | float = 0.0, yv: Tensor | float = 1.0, y0: Tensor | float = 0.0) -> Tensor:
    """Images whose pixel (u, v) is the one nearest to (xu u + xv v + x0, yu u + yv v + y0), black where that is
    outside; pixels from the image's centre."""
    (v, height), (u, width) = ((torch.arange(n, device=x.device) - (n - 1) / 2, n / 2) for n in x.shape[-2:])
    v = v[:, None]
    places = (xu * u + xv * v + x0) / width, (yu * u + yv * v + y0) / height
    grid = torch.stack([place.expand(len(x), 1, *x.shape[-2:]) for place in places], -1).squeeze(1)
    return F.grid_sample(x, grid, "nearest", align_corners=False)


def _rotated(x: Tensor, degrees: Tensor) -> Tensor:
    angle = degrees.deg2rad()
    return _moved(x, angle.cos(), -angle.sin(), 0.0, angle.sin(), angle.cos())


# torchvision's name -> operation on images [M, 3, H, W] in whole grey levels, float32, with magnitudes [M, 1, 1, 1].
OPERATIONS = {
    "ShearX": lambda x, m: _moved(x, xv=m, x0=m * x.shape[2] / 2),
    "ShearY": lambda x, m: _moved(x, yu=m, y0=m * x.shape[3] / 2),
    "TranslateX": lambda x, m: _moved(x, x0=-m.trunc()),
    "TranslateY": lambda x, m: _moved(x, y0=-m.trunc()),
    "Rotate": _rotated,
    "Brightness": lambda x, m: _blend(x, torch.zeros_like(x), m),
    "Color": lambda x, m: _blend(x, _grey(x), m),
    "Contrast": lambda x, m: _blend(x, _grey(x).mean((1, 2, 3), keepdim=True), m),
    "Sharpness": _sharpened,
    "Posterize": lambda x, m: (x / torch.exp2(8 - m)).floor_() * torch.exp2(8 - m),
    "Solarize": lambda x, m: (255 * (x >= 255 * m) - x).abs_(),
    "AutoContrast": lambda x, m: TF.autocontrast(x.byte()).float(),
    "Equalize": lambda x, m: TF.equalize(x.byte()).float(),
    "Invert": lambda x, m: 255 - x,
}


@cache
def _chains(policy: str, height: int, width: int) -> Tensor:
    """Each of a policy's equally likely chains of two: [chains, 2, 4] with the operation's place in OPERATIONS (-1 for
    the identity), its probability, its magnitude and whether that may be negative."""
    if policy == "imagenet":
        space, bins, chains = v2.AutoAugment._AUGMENTATION_SPACE, 10, v2.AutoAugment()._policies
    else:
        ours = v2.RandAugment()
        space, bins = ours._AUGMENTATION_SPACE, ours.num_magnitude_bins
        chains = itertools.product([(name, 1.0, ours.magnitude) for name in space], repeat=ours.num_ops)
    numbers = {name: i for i, name in enumerate(OPERATIONS)}

    def entry(name: str, probability: float, level: int | None) -> list[float]:
        magnitudes, signed = space[name]
        found = magnitudes(bins, height, width)
        return [numbers[name] if name != "Identity" else -1, probability, 0 if found is None else found[level], signed]

    return torch.tensor([[entry(*step) for step in chain] for chain in chains], dtype=torch.float64)


def drawn(policy: str, n: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What a policy ("imagenet" or "rand") does to n images of height x width pixels, distributed as torchvision's
    `AutoAugment` and `RandAugment` draw it.

    Returns:
        operations [n, 2], by their place in OPERATIONS, -1 for none, and their magnitudes [n, 2], signed.
    """
    chains = _chains(policy, height, width)
    operation, probability, magnitude, signed = chains[torch.randint(len(chains), (n, ), generator=generator)].unbind(2)
    applied, negative = (torch.rand(n, 2, generator=generator) for _ in range(2))
    return (torch.where(applied <= probability, operation, -1).long(),
            torch.where((negative <= 0.5) & (signed > 0), -magnitude, magnitude))
