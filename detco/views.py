"""Views of an image: random resized crops, the jigsaw of patches, MoCo v2's photometric augmentation.

Everything works on a batch, on any device, with parameters drawn per sample from a CPU generator, so the
same generator gives the same views wherever they are computed. Distributions are torchvision's.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from detco.auto_augment import OPERATIONS, POLICIES, drawn
from detco.errors import UserError, nearest

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, RGB, images in [0, 1]
GREY = (0.2989, 0.587, 0.114)  # torchvision's luma weights
FREQUENCIES = 64  # at which a blur's response is taken
ATTEMPTS = 10  # crops tried before the central one, as RandomResizedCrop does


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """[n] draws from U(low, high), float64 so that every platform rounds alike."""
    return torch.rand(n, generator=generator, dtype=torch.float64) * (high - low) + low


def random_boxes(n: int, height: int, width: int, area: tuple[float, float], generator: torch.Generator,
                 ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> Tensor:
    """Boxes of RandomResizedCrop for n images of height x width: [n, 4] as x1, y1, x2, y2 in pixels.

    In numpy: a loader draws them image by image, where torch's own overhead would be a fifth of its work.
    """
    share, log_ratio = (uniform(n * ATTEMPTS, low, high, generator).view(n, ATTEMPTS).numpy()
                        for low, high in (area, np.log(ratio)))
    target, aspect = share * height * width, np.exp(log_ratio)
    w, h = np.sqrt(target * aspect).round(), np.sqrt(target / aspect).round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first, found = (np.arange(n), fits.argmax(1)), fits.any(1)
    w = np.where(found, w[first], min(width, round(height * ratio[1])))
    h = np.where(found, h[first], min(height, round(width / ratio[0])))
    left, top = uniform(2 * n, 0, 1, generator).view(2, n).numpy()
    left = np.where(found, np.floor(left * (width - w + 1)), ((width - w) / 2).round())
    top = np.where(found, np.floor(top * (height - h + 1)), ((height - h) / 2).round())
    return torch.from_numpy(np.stack([left, top, left + w, top + h], 1))


def resized_crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """torchvision's resized_crop, bilinear and antialiased, with a box of each image's own.

    A crop is two small matrix products, one an axis, with the weights of a triangle filter: devices take a whole batch
    at once. (Crops of pools in memory
    went through RoIAlign before, which averages samples of a box but does not filter as a resize does: gradients came
    out 15 % too strong where images shrank by half.)

    Args:
        images: float [N, C, H, W].
        boxes: [N, 4], x1, y1, x2, y2 in whole pixels, on the CPU.
    Returns:
        [N, C, size, size].
    """
    left, top, right, bottom = boxes.to(images.device, images.dtype, non_blocking=True)[:, :, None, None].unbind(1)
    rows, columns = (_triangles(*axis, size) for axis in ((top, bottom, images.shape[2]),
                                                          (left, right, images.shape[3])))
    return rows[:, None] @ (images @ columns.mT[:, None])


def _triangles(start: Tensor, end: Tensor, length: int, size: int) -> Tensor:
    """Weights [N, size, length] of an axis' pixels in those of the resized interval [start, end), [N, 1, 1] each:
    triangles twice a new pixel's width, or an old one's where that is wider, cut off at the interval's ends."""
    scale = (end - start) / size
    centres = start + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    pixels = torch.arange(length, device=start.device)
    weights = (1 - (pixels + 0.5 - centres).abs() / scale.clamp_min(1)).clamp_min(0)
    weights = weights * ((pixels >= start) & (pixels < end))
    return weights / weights.sum(2, keepdim=True)


@cache
def by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """float32 [3, 1, 1] on the device; made once, since each copy to a device waits for it."""
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue of RGB images [M, 3, H, W] in [0, 1] by shift [M, 1, 1, 1], in turns."""
    high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    spread = high - low
    red, green, blue = (x[:, i:i + 1] for i in range(3))
    scale = spread.clamp_min(1e-12).reciprocal_()
    sixth = torch.where(red == high, (green - blue) * scale, torch.where(
        green == high, (blue - red) * scale + 2, (red - green) * scale + 4))  # of a turn, from red
    sixth = sixth.add_(shift * 6)
    sixth = sixth.sub_((sixth / 6).floor_().mul_(6))
    # A channel's share of the spread falls with the distance from its own hue, red's from cyan.
    centre, sign, offset = (by_channel(v, x.device) for v in ((3, 2, 4), (1, -1, -1), (-1, 2, 2)))
    return (sixth - centre).abs_().mul_(sign).add_(offset).clamp_(0, 1).mul_(spread).add_(low)


def grey(x: Tensor) -> Tensor:
    """Luma of RGB images [M, 3, H, W]: [M, 1, H, W]."""
    return (x * by_channel(GREY, x.device)).sum(1, keepdim=True)


def change(x: Tensor, chosen: Tensor, operation: Callable, *arguments: Tensor) -> None:
    """Write operation(images, arguments) over the chosen images of x [M, ...], in place.

    Args:
        chosen: bool [M], on the CPU, as are the arguments [M, ...] of each image.
    """
    if len(index := chosen.nonzero().squeeze(1)):
        there = index.to(x.device, non_blocking=True)
        own = (a[index].to(x.device, x.dtype, non_blocking=True) for a in arguments)
        x.index_copy_(0, there, operation(x[there], *own))


def color_jitter(x: Tensor, order: Tensor, factors: Tensor) -> None:
    """torchvision's ColorJitter on images [M, 3, H, W] in [0, 1], in place.

    Args:
        order: [M, 4], the turn's operation of each image: 0 brightness, 1 contrast, 2 saturation, 3 hue, -1 none.
        factors: [M, 4] by operation: of the first three, 1 changes nothing; hue's is in turns.
    """
    operations = (
        lambda x, f: x.mul_(f).clamp_(0, 1),
        lambda x, f: torch.lerp(grey(x).mean((2, 3), keepdim=True), x, f).clamp_(0, 1),
        lambda x, f: torch.lerp(grey(x), x, f).clamp_(0, 1),
        hue,
    )
    for turn in order.T:
        for i, operation in enumerate(operations):
            change(x, turn == i, operation, factors[:, i, None, None, None])


def gaussian_blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur images [M, C, S, S] in [0, 1] with a standard deviation [M] in pixels of each image's own, cut off at
    `radius`.

    The kernel is the Gaussian whose frequencies end where the image's do. From a deviation of 0.8 pixels on it equals
    the Gaussian's values at the pixels, which libraries take, and which were taken here before; below, those miss most
    of it between two pixels, at 0.3 nearly all, while this one still does to pixels what the Gaussian does to the scene
    behind them.

    Tap by tap: no library's convolution takes kernels by image without building itself anew for each number of them.
    """
    radius = min(radius, x.shape[-1] - 1)
    angles = (torch.arange(FREQUENCIES, device=x.device) + 0.5) * (math.pi / FREQUENCIES)
    response = torch.exp(-0.5 * (angles * sigma[:, None]) ** 2)
    kernel = response @ (angles[:, None] * torch.arange(-radius, radius + 1, device=x.device)).cos()
    taps = (kernel / kernel.sum(1, keepdim=True)).T[:, :, None, None, None]
    for axis, pad in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded = F.pad(x, pad, mode="reflect")
        first, *parts = (padded.narrow(axis, i, x.shape[axis]) for i in range(len(taps)))
        x = first * taps[0]
        for part, tap in zip(parts, taps[1:]):
            x.addcmul_(part, tap)
    return x.clamp_(0, 1)  # its faint negative weights overshoot at edges


def jigsaw(x: Tensor, grid: int, patch: int, generator: torch.Generator, shared: bool = False) -> Tensor:
    """PIRL's patches: cut [N, C, S, S] into grid x grid cells, one patch x patch crop at a random offset in each, or at
    one `shared` by an image's cells.

    Returns [N, grid * grid, C, patch, patch] in grid order (row by row).
    """
    n, _, side, _ = x.shape
    cell = side // grid
    corner = torch.arange(grid).repeat_interleave(grid)[:, None], torch.arange(grid).repeat(grid)[:, None]
    offsets = torch.randint(cell - patch + 1, (2, n, 1 if shared else grid * grid, 1), generator=generator)
    starts = (torch.stack(corner)[:, None] * cell + offsets).to(x.device, non_blocking=True)
    rows, columns = starts + torch.arange(patch, device=x.device)  # [N, grid * grid, patch] each
    sample, rows, columns = torch.arange(n, device=x.device)[:, None, None, None], rows[..., None], columns[:, :, None]
    return x.permute(0, 2, 3, 1)[sample, rows, columns].permute(0, 1, 4, 2, 3)


@dataclass(frozen=True)
class View:
    """One view of an image. Defaults are MoCo v2's global view (DetCo section 4.1).

    Args:
        size: side of the square crop, in pixels.
        area: range of the crop's share of the image's area.
        grid, patch: cut the crop into grid x grid cells and take a patch x patch crop of each; 0 for none.
        jitter, jitter_p: brightness, contrast, saturation, hue of ColorJitter, and its probability.
        grey_p, blur_p, flip_p: probabilities of grey, blur and horizontal flip.
        solarize_p: that, after the blur, values of 0.5 and more are inverted (BYOL, arXiv 2006.07733, appendix B).
        blur_sigma: range of the blur's standard deviation, in pixels.
        auto_augment: torchvision's "imagenet" policy or "rand" (RandAugment), at its defaults, after jitter and grey
            and before blur, on pixels rounded to grey levels: `detco_aa`, the DetCo_AA of the paper's tables.
        offsets: of patches in their cells, of each "patch" its own, as PIRL's gaps between them want it, or one an
            "image".
        photometric: draws of jitter, grey, automatic augmentation, blur and solarisation, of each "patch" its own, so
            that patches cannot be told to belong together by their colour, or one an "image".
    Raises:
        UserError: patches larger than cells, an offset or photometric draw of neither kind, or an unknown policy.
    """

    size: int = 224
    area: tuple[float, float] = (0.2, 1.0)
    grid: int = 0
    patch: int = 0
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: float = 0.8
    grey_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    flip_p: float = 0.5
    auto_augment: str | None = None
    offsets: str = "patch"
    photometric: str = "patch"
    solarize_p: float = 0.0

    def __post_init__(self):
        for name in ("offsets", "photometric"):
            if getattr(self, name) not in ("patch", "image"):
                raise UserError(f"view: {name} '{getattr(self, name)}': choose patch or image")
        if self.auto_augment and self.auto_augment not in POLICIES:
            raise UserError(f"view: {nearest('auto_augment', self.auto_augment, POLICIES)}")
        if self.grid and self.patch > self.size // self.grid:
            raise UserError(f"view: patch {self.patch} does not fit a cell of {self.size // self.grid} pixels")

    @property
    def pixels(self) -> int:
        """Pixels of one image's view that pass through the encoder."""
        return self.grid**2 * self.patch**2 if self.grid else self.size**2

    def crop(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Random resized crops of uint8 images [N, 3, H, W]: [N, 3, size, size], uint8 on CPUs as from a loader, on
        other devices float32 in [0, 1], not rounded to grey levels."""
        n, _, height, width = images.shape
        boxes = random_boxes(n, height, width, self.area, generator)
        if images.device.type != "cpu":
            return resized_crop(images.float() / 255, boxes, self.size)
        # Image by image torchvision's own is four times as fast on CPUs, batched or not.
        return torch.stack([TF.resized_crop(image, y1, x1, y2 - y1, x2 - x1, [self.size] * 2, antialias=True)
                            for image, (x1, y1, x2, y2) in zip(images, boxes.int().tolist())])

    def finish(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Flip, cut, augment and normalise crops [N, 3, size, size] in [0, 1] (or uint8).

        Returns [N, 3, size, size], or [N, grid * grid, 3, patch, patch] with a grid.
        """
        x = crops.clone()
        change(x, torch.rand(len(x), generator=generator) < self.flip_p, lambda x: x.flip(-1))
        if self.grid:
            x = jigsaw(x, self.grid, self.patch, generator, self.offsets == "image").flatten(0, 1)
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        self._photometric(x, generator, self.grid**2 if self.photometric == "image" and self.grid else 1)
        x.sub_(by_channel(MEAN, x.device)).div_(by_channel(STD, x.device))
        return x.unflatten(0, (len(crops), -1)) if self.grid else x

    def _photometric(self, x: Tensor, generator: torch.Generator, alike: int) -> None:
        """Jitter, grey, blur and solarise images [M, 3, S, S] in place, `alike` ones in a row with the same draw."""
        n = len(x) // alike
        order = torch.rand(n, 4, generator=generator).argsort(1)
        order[torch.rand(n, generator=generator) >= self.jitter_p] = -1
        order[torch.isin(order, torch.tensor([i for i, s in enumerate(self.jitter) if not s], dtype=torch.long))] = -1
        factors = torch.stack([uniform(n, max(0, 1 - s), 1 + s, generator) for s in self.jitter[:3]]
                              + [uniform(n, -self.jitter[3], self.jitter[3], generator)], 1)
        greyed, blurred = (torch.rand(n, generator=generator) < p for p in (self.grey_p, self.blur_p))
        sigma = uniform(n, *self.blur_sigma, generator)
        order, factors, greyed, blurred, sigma = (
            draw.repeat_interleave(alike, 0) for draw in (order, factors, greyed, blurred, sigma))
        radius = max(3, math.ceil(3 * self.blur_sigma[1]))
        color_jitter(x, order, factors)
        change(x, greyed, lambda x: grey(x).expand_as(x))
        if self.auto_augment:
            self._auto_augment(x, *(draw.repeat_interleave(alike, 0) for draw in
                                    drawn(self.auto_augment, n, x.shape[2], x.shape[3], generator)))
        change(x, blurred, partial(gaussian_blur, radius=radius), sigma)
        if self.solarize_p:  # drawn last, and only where asked: other views keep their draws
            solarized = torch.rand(n, generator=generator) < self.solarize_p
            change(x, solarized.repeat_interleave(alike), partial(TF.solarize, threshold=0.5))

    def _auto_augment(self, x: Tensor, operations: Tensor, magnitudes: Tensor) -> None:
        """Apply `auto_augment.drawn` operations and magnitudes [M, 2] to images [M, 3, S, S] in place."""
        x.mul_(255).round_()
        for turn, own in zip(operations.T, magnitudes.T):
            for i, operation in enumerate(OPERATIONS.values()):
                change(x, turn == i, operation, own[:, None, None, None])
        x.div_(255)
