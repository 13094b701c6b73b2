"""Views: the same distributions as torchvision's, drawn per sample in a batch."""
import itertools
from dataclasses import replace

import pytest
import scipy.stats
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from detco import views
from detco.detco import DetCo
from detco.views import MEAN, STD, View, color_jitter, gaussian_blur, hue, jigsaw, random_boxes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(100, 100), (60, 200), (50, 400)])
def test_boxes_are_distributed_as_random_resized_crop(size):
    height, width = size
    ours = random_boxes(4000, height, width, (0.2, 1.0), generator())
    torch.manual_seed(0)
    image = torch.empty(1, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    top, left, h, w = theirs.double().unbind(1)
    mine = torch.stack([ours[:, 1], ours[:, 0], ours[:, 3] - ours[:, 1], ours[:, 2] - ours[:, 0]], 1)
    for a, b in zip(mine.unbind(1), (top, left, h, w)):
        for q in (0.1, 0.25, 0.5, 0.75, 0.9):
            assert abs(a.quantile(q) - b.quantile(q)) <= 0.03 * max(size), q
    assert (ours >= 0).all() and (ours[:, 2] <= width).all() and (ours[:, 3] <= height).all()


@pytest.mark.parametrize("size", [9, 48, 64, 150])
def test_crops_are_torchvisions_resized_crops(size, monkeypatch):
    """Shrunk, stretched, of single rows and columns, at the image's edges; each image has a box of its own."""
    images = torch.randint(0, 256, (6, 3, 70, 97), dtype=torch.uint8, generator=generator())
    boxes = torch.tensor([[0, 0, 97, 70], [10, 5, 42, 37], [3, 60, 96, 61], [96, 0, 97, 70], [0, 30, 20, 70],
                          [40, 1, 41, 2]]).double()
    monkeypatch.setattr("detco.views.random_boxes", lambda *args: boxes)
    batched, here = views.resized_crop(images.float() / 255, boxes, size), View(size=size).crop(images, generator())
    for image, crop, rounded, (x1, y1, x2, y2) in zip(images, batched, here, boxes.int().tolist()):
        box = (y1, x1, y2 - y1, x2 - x1)
        torch.testing.assert_close(crop, F.resized_crop(image.float() / 255, *box, [size] * 2, antialias=True),
                                   atol=1e-5, rtol=0)
        assert torch.equal(rounded, F.resized_crop(image, *box, [size] * 2, antialias=True))
        assert ((crop * 255).round() - rounded).abs().max() <= 1


@pytest.mark.parametrize("shift", [-0.1, 0.03, 0.1, 0.5])
def test_hue_is_torchvisions(shift):
    x = torch.rand(3, 3, 16, 16, generator=generator())
    x[0] = x[0, :1]  # greys have no hue
    torch.testing.assert_close(hue(x, torch.full((3, 1, 1, 1), shift)), F.adjust_hue(x, shift), atol=2e-4, rtol=0)


@pytest.mark.parametrize("i, adjust", enumerate([F.adjust_brightness, F.adjust_contrast, F.adjust_saturation]))
def test_jitter_of_one_kind_is_torchvisions_with_a_factor_of_each_images_own(i, adjust):
    x = torch.rand(6, 3, 8, 8, generator=generator())
    factors = torch.linspace(0.6, 1.4, 6)
    jittered, order = x.clone(), torch.full((6, 4), -1)
    order[:5, 2] = i
    color_jitter(jittered, order, factors[:, None].expand(-1, 4))
    for image, ours, factor in zip(x[:5], jittered, factors):
        torch.testing.assert_close(ours, adjust(image, float(factor)), atol=1e-5, rtol=0)
    assert torch.equal(jittered[5], x[5])


def test_jitter_keeps_each_images_own_order():
    x = torch.rand(24, 3, 8, 8, generator=generator())
    order = torch.tensor(list(itertools.permutations(range(4))))
    factors = torch.tensor([1.3, 0.7, 1.4, 0.1]).expand(24, -1)
    jittered = x.clone()
    color_jitter(jittered, order, factors)
    adjust = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    for image, ours, turns in zip(x, jittered, order.tolist()):
        for i in turns:
            image = adjust[i](image, float(factors[0, i]))
        torch.testing.assert_close(ours, image, atol=2e-4, rtol=0)


def test_draws_are_distributed_as_color_jitters_and_the_blurs():
    """What `View.finish` hands on: an order of four in eight of ten images, factors and sigmas over their ranges."""
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "color_jitter", lambda x, order, factors: seen.update(order=order, factors=factors))
        patch.setattr(views, "gaussian_blur", lambda x, sigma, radius: seen.update(sigma=sigma) or x)
        View(size=2).finish(torch.rand(20_000, 3, 2, 2), generator())
    jittered = seen["order"][:, 0] >= 0
    assert abs(jittered.float().mean() - 0.8) < 0.02
    assert torch.equal(seen["order"][jittered].sort(1).values, torch.arange(4).expand(int(jittered.sum()), -1))
    counts = torch.unique(seen["order"][jittered], dim=0, return_counts=True)[1]
    assert len(counts) == 24 and counts.min() > 0.8 * counts.float().mean()
    for i, (low, high) in enumerate(((0.6, 1.4),) * 3 + ((-0.1, 0.1),)):
        assert scipy.stats.kstest(seen["factors"][:, i], scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert abs(len(seen["sigma"]) - 10_000) < 300
    assert scipy.stats.kstest(seen["sigma"], scipy.stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


def test_blur_is_torchvisions_with_a_sigma_of_each_images_own():
    x = torch.rand(2, 3, 32, 32, generator=generator())
    ours = gaussian_blur(x, torch.tensor([1.0, 2.0]), radius=6)
    for i, sigma in enumerate((1.0, 2.0)):
        theirs = F.gaussian_blur(x[i], [13, 13], [sigma, sigma])
        torch.testing.assert_close(ours[i], theirs, atol=3e-3 if i == 0 else 1e-4, rtol=0)


@pytest.mark.parametrize("sigma, most", [(0.1, 0.65), (0.2, 0.5), (0.3, 0.4), (0.4, 0.3), (0.5, 0.2), (0.9, 0.05)])
def test_blurs_below_a_pixel_do_to_pixels_what_they_do_to_the_scene_behind_them(sigma, most):
    """A scene with a photo's spectrum at 16 samples a pixel, blurred there and then averaged over each pixel."""
    fine, n = 16, 48
    frequencies = torch.fft.fftfreq(n * fine, dtype=torch.float64), torch.fft.rfftfreq(n * fine, dtype=torch.float64)
    squared = frequencies[0][:, None] ** 2 + frequencies[1] ** 2
    noise = torch.fft.rfft2(torch.randn(n * fine, n * fine, dtype=torch.float64, generator=generator()))
    spectrum = noise / squared.clamp_min(1 / (n * fine) ** 2) ** 0.75

    def pixels(spectrum):
        scene = torch.fft.irfft2(spectrum)
        return torch.nn.functional.avg_pool2d(scene[None, None], fine)

    plain, ideal = pixels(spectrum), pixels(spectrum * torch.exp(-2 * (torch.pi * sigma * fine) ** 2 * squared))
    low, high = plain.min() - plain.std(), plain.max() + plain.std()
    plain, ideal = (((x - low) / (high - low)).float() for x in (plain, ideal))
    ours = gaussian_blur(plain, torch.tensor([sigma]), radius=3)
    inner = (..., slice(6, -6), slice(6, -6))  # the scene has no mirror at its edges
    assert (ours - ideal)[inner].norm() < most * (plain - ideal)[inner].norm()


def test_jigsaw_cuts_one_patch_of_each_cell_in_grid_order():
    y, x = torch.meshgrid(torch.arange(255.0), torch.arange(255.0), indexing="ij")
    image = torch.stack([y, x, y])[None].expand(40, -1, -1, -1)
    patches = jigsaw(image, 3, 64, generator())
    assert patches.shape == (40, 9, 3, 64, 64)
    corner = patches[:, :, :2, 0, 0].view(40, 3, 3, 2)
    offset = corner - 85 * torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"), -1)
    assert offset.min() == 0 and offset.max() == 21  # every offset from 0 to 21 pixels occurs, none beyond
    assert torch.equal(patches[3, 4, 0], patches[3, 4, 0, 0, 0] + torch.arange(64.0)[:, None].expand(64, 64))


def test_offsets_and_draws_are_each_patchs_own_or_one_an_image():
    y, x = torch.meshgrid(torch.arange(36.0), torch.arange(36.0), indexing="ij")
    ramp = (torch.stack([y, x, y]) / 40).expand(60, -1, -1, -1)
    plain = dict(size=36, grid=3, patch=10, jitter=(0, 0, 0, 0), grey_p=0, blur_p=0, flip_p=0)
    scale = torch.tensor(STD[:2]) * 40, torch.tensor(MEAN[:2]) * 40
    for offsets, several in (("patch", True), ("image", False)):
        corner = View(**plain, offsets=offsets).finish(ramp, generator())[:, :, :2, 0, 0] * scale[0] + scale[1]
        cells = 12 * torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"), -1).view(9, 2)
        offset = (corner - cells).round().int()
        assert set(offset.flatten().tolist()) == {0, 1, 2}
        assert {len(set(map(tuple, image.tolist()))) > 1 for image in offset} == {several}
    flat = torch.full((20, 3, 36, 36), 0.5)
    for photometric, distinct in (("patch", 9), ("image", 1)):
        view = View(**plain | dict(jitter=(0.4, 0, 0, 0), jitter_p=1), photometric=photometric)
        levels = view.finish(flat, generator())[:, :, 0, 0, 0]
        assert {image.unique().numel() for image in levels} == {distinct} and levels[:, 0].unique().numel() == 20


@pytest.mark.parametrize("field", ["offsets", "photometric"])
def test_draws_of_no_known_kind_are_refused(field):
    with pytest.raises(ValueError, match=f"view: {field} 'cell': choose patch or image"):
        View(**{field: "cell"})


def test_probabilities_and_normalisation():
    plain = View(size=8, jitter_p=0, grey_p=0, blur_p=0, flip_p=0)
    x = torch.rand(2, 3, 8, 8)
    back = plain.finish(x, generator()) * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    torch.testing.assert_close(back, x)
    many = torch.rand(2000, 3, 2, 2, generator=generator(3))
    flips = View(size=2, jitter_p=0, grey_p=0.2, blur_p=0, flip_p=0.0).finish(many, generator())
    flat = flips * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert 0.15 < (flat[:, 0] - flat[:, 1]).abs().amax((1, 2)).lt(1e-4).float().mean() < 0.25


def test_solarised_images_are_torchvisions_and_other_views_keep_their_draws():
    still = dict(size=8, jitter_p=0, grey_p=0, blur_p=0, flip_p=0)
    x = torch.rand(3, 3, 8, 8, generator=generator())
    back = View(**still, solarize_p=1.0).finish(x, generator()) * torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(back + torch.tensor(MEAN)[:, None, None], F.solarize(x, 0.5))
    torch.testing.assert_close(F.solarize(torch.tensor([[[0.49, 0.5, 0.9]]]), 0.5), torch.tensor([[[0.49, 0.5, 0.1]]]))
    many = torch.full((2000, 3, 2, 2), 0.9)
    plain, some = (View(size=2, jitter_p=0, grey_p=0, blur_p=0, solarize_p=p).finish(many, generator())
                   for p in (0.0, 0.2))
    assert 0.17 < (plain != some).flatten(1).any(1).float().mean() < 0.23
    after = [generator(5) for _ in range(2)]
    plain, rare = (View(size=8, solarize_p=p).finish(x, own) for p, own in zip((0.0, 1e-9), after))
    assert torch.equal(plain, rare) and not torch.equal(*(own.get_state() for own in after))  # only one drew once more
    patches = View(size=36, grid=3, patch=10, jitter_p=0, grey_p=0, blur_p=0, solarize_p=0.5, photometric="image")
    levels = patches.finish(torch.full((40, 3, 36, 36), 0.9), generator())[:, :, 0, 0, 0]
    assert all(len(image.unique()) == 1 for image in levels) and len(levels.unique()) == 2


def test_views_are_drawn_independently_and_repeat_with_the_step():
    method = DetCo("resnet18", dict(size=16), dict(size=18, area=(0.6, 1.0), grid=3, patch=5), bank_size=8)
    images = {"images": torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=generator())}
    method.seed_step(0, 5, 0)
    first, again = method.views(images), method.views(images)
    assert set(first) == {"global_q", "global_k", "local_q", "local_k"}
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["global_q"], first["global_k"])
    assert not torch.equal(first["local_q"], first["local_k"])
    method.seed_step(0, 6, 0)
    assert not torch.equal(first["global_q"], method.views(images)["global_q"])


def test_patches_get_photometric_draws_of_their_own():
    view = View(size=36, grid=3, patch=10, jitter=(0.4, 0, 0, 0), jitter_p=1, grey_p=0, blur_p=0)
    patches = view.finish(torch.full((1, 3, 36, 36), 0.5), generator())
    assert patches[0, :, 0].mean((1, 2)).unique().numel() == 9


@pytest.mark.parametrize("policy", ["imagenet", "rand"])
def test_auto_augment_changes_images_and_repeats_with_the_generator(policy):
    x = torch.rand(4, 3, 32, 32, generator=generator())
    plain = View(size=32, jitter_p=0, grey_p=0, blur_p=0, flip_p=0)
    view = replace(plain, auto_augment=policy)
    ours = view.finish(x, generator(4))
    assert torch.equal(ours, view.finish(x, generator(4)))
    assert not torch.allclose(ours, plain.finish(x, generator(4)), atol=0.1)


def test_a_patch_larger_than_its_cell_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        View(size=36, grid=3, patch=13)
