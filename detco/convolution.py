"""Convolutions over maps of a few pixels, on the CPU: as one matrix product an output pixel.

Small images and patches leave C4 and C5 a map of 1 x 1 to 3 x 3 pixels, whose 3 x 3 kernels lie mostly over padding.
oneDNN takes them as it takes large maps, padding included, at a tenth of its speed; the part of the kernel that meets
pixels is a plain matrix. `benchmarks/speed.py` measures both (docs/speed.md).
"""
from collections.abc import Iterator

import torch
from torch import Tensor, nn

FEW = 4  # output pixels, from which on the library is as fast
FEW_WIDE = 9  # the same from WIDE input channels on
WIDE = 256


def _windows(size: int, out: int, kernel: int, stride: int, padding: int) -> Iterator[tuple[slice, slice]]:
    """Along one side, what each output pixel sees: the input's pixels, and the kernel's taps that meet them."""
    for first in range(-padding, out * stride - padding, stride):
        low, high = max(first, 0), min(first + kernel, size)
        yield slice(low, high), slice(low - first, high - first)


class _FewPixels(torch.autograd.Function):
    """A convolution without bias, dilation and groups; tensors are read channels last."""

    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor, out: tuple[int, int], stride: int, padding: int) -> Tensor:
        sides = [list(_windows(size, side, kernel, stride, padding))
                 for size, side, kernel in zip(images.shape[2:], out, weight.shape[2:])]
        ctx.save_for_backward(images, weight)
        ctx.pixels = [(y, x, (slice(None), rows, columns), (slice(None), taps_y, taps_x))
                      for y, (rows, taps_y) in enumerate(sides[0]) for x, (columns, taps_x) in enumerate(sides[1])]
        source, kernel = images.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
        result = images.new_empty(len(images), *out, len(weight))
        for y, x, seen, taps in ctx.pixels:
            result[:, y, x] = source[seen].flatten(1) @ kernel[taps].flatten(1).T
        return result.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        of_images, of_weight = (torch.zeros_like(tensor) if needed else None
                                for tensor, needed in zip((images, weight), ctx.needs_input_grad))
        source, kernel, grad = (tensor.permute(0, 2, 3, 1) for tensor in (images, weight, grad))
        for y, x, seen, taps in ctx.pixels:
            here = grad[:, y, x]
            if of_images is not None:
                part = of_images.permute(0, 2, 3, 1)[seen]
                part += (here @ kernel[taps].flatten(1)).view(part.shape)
            if of_weight is not None:
                part = of_weight.permute(0, 2, 3, 1)[taps]
                part += (here.T @ source[seen].flatten(1)).view(part.shape)
        return of_images, of_weight, None, None, None


class FewPixelsConv2d(nn.Conv2d):
    """torch's Conv2d, which takes maps of a few pixels as matrix products where that is faster: on the CPU. Both give
    the same to rounding."""

    def forward(self, images: Tensor) -> Tensor:
        [stride, _], padding = self.stride, int(self.padding[0])
        height, width = ((size + 2 * padding - kernel) // stride + 1
                         for size, kernel in zip(images.shape[2:], self.kernel_size))
        few = FEW_WIDE if self.in_channels >= WIDE else FEW
        if images.device.type != "cpu" or height * width > few or torch.compiler.is_compiling():
            return super().forward(images)
        return _FewPixels.apply(images, self.weight, (height, width), stride, padding)


def few_pixels(module: nn.Module) -> None:
    """Have every square convolution of `module` without bias, dilation and groups take small maps so; weights are
    kept."""
    for child in module.modules():
        if type(child) is nn.Conv2d and child.bias is None and child.groups == 1 and child.dilation == (1, 1) \
                and all(len(set(side)) == 1 for side in (child.stride, child.padding)):
            child.__class__ = FewPixelsConv2d  # same fields, another forward
