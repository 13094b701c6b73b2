"""Automatic augmentation of batches: torchvision's policies, image by image, with the same draws."""
from collections import Counter

import pytest
import scipy.stats
import torch
from torchvision.transforms import v2

from detco import views
from detco.auto_augment import OPERATIONS, POLICIES, drawn
from detco.errors import UserError
from detco.views import MEAN, STD, View

THEIRS = {"imagenet": v2.AutoAugment(), "rand": v2.RandAugment()}
PLAIN = dict(jitter_p=0, grey_p=0, blur_p=0, flip_p=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, size=24):
    """Noise over shades, the first without contrast: each operation has something to do, or nothing."""
    x = torch.randint(0, 128, (n, 3, size, size), dtype=torch.uint8, generator=generator())
    x += torch.linspace(0, 120, size).byte()
    x[0] = 7
    return x


def applied(policy, image, name, magnitude):
    """torchvision's own operation, by the names and magnitudes of its policies, on a uint8 image."""
    own = THEIRS[policy]
    return own._apply_image_or_video_transform(image, name, magnitude, own.interpolation, own._fill)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_torchvisions_with_a_magnitude_of_each_images_own(name):
    """Over the magnitudes of both policies' tables, and an odd and an even side."""
    for policy, size in (("imagenet", 24), ("rand", 25)):
        if name not in THEIRS[policy]._AUGMENTATION_SPACE:
            continue
        table, signed = THEIRS[policy]._AUGMENTATION_SPACE[name]
        magnitudes = table(10, size, size)
        magnitudes = torch.zeros(2) if magnitudes is None else magnitudes.float()
        magnitudes = torch.cat([magnitudes, -magnitudes]) if signed else magnitudes
        x = images(len(magnitudes), size)
        x[0] = x[-1] if name in ("Posterize", "Solarize") else x[0]
        ours = OPERATIONS[name](x.float(), magnitudes[:, None, None, None])
        theirs = torch.stack([applied(policy, image, name, m) for image, m in zip(x, magnitudes.tolist())]).float()
        off = (ours - theirs).abs()
        if name.startswith(("Shear", "Rotate")):  # rounds either way where a pixel's source lies halfway between two
            assert (off > 0).float().mean() < 0.02
        else:
            assert off.max() <= 1
        assert torch.equal(ours, ours.round()) and not torch.equal(ours, x.float())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [14, 64])
def test_a_batch_is_augmented_as_its_images_are_by_torchvision(policy, size):
    x = images(80, size)
    operations, magnitudes = drawn(policy, 80, size, size, generator())
    ours = x.float() / 255
    View(auto_augment=policy)._auto_augment(ours, operations, magnitudes)
    names = list(OPERATIONS)
    for image, augmented, chain, own in zip(x, ours, operations.tolist(), magnitudes.tolist()):
        for number, magnitude in zip(chain, own):
            image = applied(policy, image, names[number], magnitude) if number >= 0 else image
        assert ((augmented * 255 - image.float()).abs() > 1.01).float().mean() < 1e-3
    assert operations.unique().numel() >= 10


@pytest.mark.parametrize("policy", POLICIES)
def test_draws_are_distributed_as_torchvisions(policy, monkeypatch):
    """What is done to an image, first and then, and how strongly."""
    n, own, seen = 6000, THEIRS[policy], []
    monkeypatch.setattr(own, "_apply_image_or_video_transform",
                        lambda image, name, magnitude, *_, **__: seen[-1].append((name, round(magnitude, 4))) or image)
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(n):
            seen.append([])
            own(image)
    names = [*OPERATIONS, "Identity"]
    ours = [[(names[i], round(m, 4)) for i, m in zip(*pair) if i >= 0 or policy == "rand"]
            for pair in zip(*(draw.tolist() for draw in drawn(policy, n, 20, 20, generator())))]
    if policy == "rand":  # of an identity ours has the magnitude of nothing
        assert {m for chain in ours for name, m in chain if name == "Identity"} == {0.0}
    for look in (len, lambda chain: chain[:1], lambda chain: chain[1:], lambda chain: [name for name, _ in chain]):
        counts = [Counter(str(look(chain)) for chain in chains) for chains in (ours, seen)]
        often = [key for key in counts[0] | counts[1] if counts[0][key] + counts[1][key] >= 20]
        assert sum(counts[0][key] for key in often) > 0.9 * n
        if len(often) > 1:
            assert scipy.stats.chi2_contingency([[count[key] for key in often] for count in counts]).pvalue > 1e-3


def test_it_comes_before_blur(monkeypatch):
    """Black and white, then blurred to greys; jitter comes before, or there were colours between."""
    solarized, none = list(OPERATIONS).index("Posterize"), -1
    monkeypatch.setattr(views, "drawn", lambda policy, n, *_: (torch.tensor([[solarized, none]] * n),
                                                               torch.ones(n, 2, dtype=torch.float64)))
    x = images(8).float() / 255

    def levels(**fields):
        out = View(size=24, **PLAIN | fields, auto_augment="imagenet").finish(x, generator())
        return (out * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]).mul(1e4).round().unique()

    assert levels().numel() == levels(jitter_p=1).numel() == 2
    assert levels(blur_p=1, blur_sigma=(1, 2)).numel() > 100


def test_patches_have_draws_of_their_own_or_one_an_image():
    flat = torch.full((30, 3, 36, 36), 0.3)
    view = dict(size=36, grid=3, patch=10, **PLAIN, auto_augment="rand")
    for photometric, several in (("patch", True), ("image", False)):
        patches = View(**view, photometric=photometric).finish(flat, generator())
        assert (patches != patches[:, :1]).any() == several and (patches != patches[:1]).any()


def test_an_unknown_policy_is_refused():
    with pytest.raises(UserError, match="view: unknown auto_augment 'image_net': did you mean imagenet"):
        View(auto_augment="image_net")
