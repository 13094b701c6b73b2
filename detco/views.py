"""Views of an image: random resized crops, the jigsaw of patches, MoCo v2's photometric augmentation.

Everything works on a batch, on any device, with parameters drawn per sample from a CPU generator, so the
same generator gives the same views wherever they are computed. Distributions are torchvision's.
"""
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, RGB, images in [0, 1]
GREY = (0.2989, 0.587, 0.114)  # torchvision's luma weights
ATTEMPTS = 10  # crops tried before the central one, as RandomResizedCrop does


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """[n] draws from U(low, high), float64 so that every platform rounds alike."""
    return torch.rand(n, generator=generator, dtype=torch.float64) * (high - low) + low


def chosen(n: int, p: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """Indices of the samples picked with probability p each."""
    return (torch.rand(n, generator=generator) < p).nonzero().squeeze(1).to(device)


def random_boxes(n: int, height: int, width: int, area: tuple[float, float], generator: torch.Generator,
                 ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> Tensor:
    """Boxes of RandomResizedCrop for n images of height x width: [n, 4] as x1, y1, x2, y2 in pixels."""
    shape = (n, ATTEMPTS)
    target = uniform(n * ATTEMPTS, *area, generator).view(shape) * height * width
    aspect = uniform(n * ATTEMPTS, math.log(ratio[0]), math.log(ratio[1]), generator).view(shape).exp()
    w, h = (target * aspect).sqrt().round(), (target / aspect).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    central_w = min(width, round(height * ratio[1]))
    central_h = min(height, round(width / ratio[0]))
    found = fits.any(1)
    w = torch.where(found, w.gather(1, first).squeeze(1), central_w)
    h = torch.where(found, h.gather(1, first).squeeze(1), central_h)
    left = torch.where(found, (uniform(n, 0, 1, generator) * (width - w + 1)).floor(), ((width - w) / 2).round())
    top = torch.where(found, (uniform(n, 0, 1, generator) * (height - h + 1)).floor(), ((height - h) / 2).round())
    return torch.stack([left, top, left + w, top + h], 1)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue of RGB images [M, 3, H, W] in [0, 1] by shift [M, 1, 1, 1], in turns."""
    high, argmax = x.max(1, keepdim=True)
    spread = high - x.amin(1, keepdim=True)
    following = (argmax + torch.tensor([1, 2], device=x.device)[None, :, None, None]) % 3
    after, before = x.gather(1, following).split(1, 1)
    turn = argmax * 2 + (after - before) / spread.clamp_min(1e-12) + shift * 6
    k = (turn + torch.tensor([5.0, 3.0, 1.0], device=x.device, dtype=x.dtype)[None, :, None, None]) % 6
    return high - spread * torch.minimum(k, 4 - k).clamp(0, 1)


def grey(x: Tensor) -> Tensor:
    """Luma of RGB images [M, 3, H, W]: [M, 1, H, W]."""
    return (x * x.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)


def color_jitter(x: Tensor, strength: tuple[float, float, float, float], generator: torch.Generator) -> Tensor:
    """torchvision's ColorJitter with factors and order of its own for every image [M, 3, H, W] in [0, 1]."""
    operations = (
        lambda x, f: x * f,
        lambda x, f: torch.lerp(grey(x).mean((2, 3), keepdim=True), x, f),
        lambda x, f: torch.lerp(grey(x), x, f),
        lambda x, f: hue(x, f - 1),
    )
    order = torch.rand(len(x), 4, generator=generator).argsort(1)
    factors = [uniform(len(x), max(0, 1 - s), 1 + s, generator).to(x)[:, None, None, None] for s in strength]
    for turn in order.T:
        for i, (operation, factor) in enumerate(zip(operations, factors)):
            if strength[i] and len(index := (turn == i).nonzero().squeeze(1).to(x.device)):
                x = x.index_copy(0, index, operation(x[index], factor[index]).clamp_(0, 1))
    return x


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur images [M, C, H, W] with a standard deviation [M] in pixels of each image's own."""
    radius = min(math.ceil(3 * float(sigma.max())), min(x.shape[2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(x)[:, :, None, None, None]
    for axis, pad in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded = F.pad(x, pad, mode="reflect")
        x = sum(kernel[:, i] * padded.narrow(axis, i, x.shape[axis]) for i in range(2 * radius + 1))
    return x


def jigsaw(x: Tensor, grid: int, patch: int, generator: torch.Generator) -> Tensor:
    """PIRL's patches: cut [N, C, S, S] into grid x grid cells, one patch x patch crop at a random offset in each.

    Returns [N, grid * grid, C, patch, patch] in grid order (row by row).
    """
    n, _, side, _ = x.shape
    cell = side // grid
    corner = torch.arange(grid).repeat_interleave(grid)[:, None], torch.arange(grid).repeat(grid)[:, None]
    offsets = torch.randint(cell - patch + 1, (2, n, grid * grid, 1), generator=generator)
    rows, columns = (c * cell + o + torch.arange(patch) for c, o in zip(corner, offsets))
    sample = torch.arange(n)[:, None, None, None]
    index = (i.to(x.device) for i in (sample, rows[:, :, :, None], columns[:, :, None, :]))
    sample, rows, columns = index
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
        blur_sigma: range of the blur's standard deviation, in pixels.
        auto_augment: torchvision's "imagenet" policy or "rand" (RandAugment) before normalisation (`detco_aa`).
    Photometric draws are afresh for each patch.
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

    def __post_init__(self):
        if self.grid and self.patch > self.size // self.grid:
            raise ValueError(f"view: patch {self.patch} does not fit a cell of {self.size // self.grid} pixels")

    @property
    def pixels(self) -> int:
        """Pixels of one image's view that pass through the encoder."""
        return self.grid**2 * self.patch**2 if self.grid else self.size**2

    def crop(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Random resized crops of uint8 images [N, 3, H, W]: float32 [N, 3, size, size] in [0, 1].

        RoIAlign's adaptive sampling is bilinear interpolation with antialiasing, on every device.
        """
        n, _, height, width = images.shape
        boxes = random_boxes(n, height, width, self.area, generator)
        rois = torch.cat([torch.arange(n)[:, None], boxes], 1).to(images.device, torch.float32)
        return roi_align(images.float() / 255, rois, self.size, aligned=True)

    def finish(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Flip, cut, augment and normalise crops [N, 3, size, size] in [0, 1] (or uint8).

        Returns [N, 3, size, size], or [N, grid * grid, 3, patch, patch] with a grid.
        """
        x = crops.float() / 255 if crops.dtype == torch.uint8 else crops
        flipped = chosen(len(x), self.flip_p, generator, x.device)
        x = x.index_copy(0, flipped, x[flipped].flip(-1))
        if self.grid:
            x = jigsaw(x, self.grid, self.patch, generator).flatten(0, 1)
        x = self._photometric(x, generator)
        x = (x - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(STD)[:, None, None]
        return x.unflatten(0, (len(crops), -1)) if self.grid else x

    def _photometric(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if len(index := chosen(len(x), self.jitter_p, generator, x.device)):
            x = x.index_copy(0, index, color_jitter(x[index], self.jitter, generator))
        if len(index := chosen(len(x), self.grey_p, generator, x.device)):
            x = x.index_copy(0, index, grey(x[index]).expand(-1, 3, -1, -1))
        if len(index := chosen(len(x), self.blur_p, generator, x.device)):
            x = x.index_copy(0, index, gaussian_blur(x[index], uniform(len(index), *self.blur_sigma, generator)))
        return self._auto_augment(x, generator) if self.auto_augment else x

    def _auto_augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        policy = {"imagenet": v2.AutoAugment, "rand": v2.RandAugment}[self.auto_augment]()
        with torch.random.fork_rng(devices=[]):  # the policies draw from torch's global generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            images = (x * 255).round().to(torch.uint8)
            return torch.stack([policy(image) for image in images]).float() / 255
