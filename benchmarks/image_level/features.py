"""Frozen features: C5 of test-time images, pooled, computed once a checkpoint and kept on disk in chunks."""
from pathlib import Path

import numpy as np
import torch
from mmengine import dist
from mmengine.device import get_device
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from benchmarks.data.coco import DataError
from benchmarks.job import Job
from detco import checkpoint as checkpoints
from detco.backbone import ResNetLevels
from detco.config import digest
from detco.console import progress_bar, stop_if_asked
from detco.distributed import alone
from detco.files import flaw_of, replacing
from detco.images import ImageError, rgb
from detco.views import MEAN, STD

CHUNK = 2048  # images a file: at most 8 MiB, seconds of work to lose
BATCH = 128


class PooledC5(nn.Module):
    """A frozen ResNet: normalised RGB images [N, 3, S, S] -> its C5, averaged: float32 [N, C * grid * grid].

    Batch norm keeps the checkpoint's statistics, in training too: they are part of what is measured (MoCo's
    main_lincls.py). The network has the checkpoint's style (`detco.checkpoint.style_of`): images normalised by
    ImageNet's mean and deviation are turned into its pixels.

    Args:
        arch: torchvision ResNet.
        metadata: the checkpoint's.
        grid: averages a side: 1, over all of the map; 2, over four overlapping squares, each a cell less a side than
            the map (fair_self_supervision_benchmark's 6 x 6 of 7 x 7), in the order of channels, rows, columns.
    """

    def __init__(self, arch: str, metadata: dict, grid: int = 1):
        super().__init__()
        self.backbone = ResNetLevels(arch, metadata["stride"])
        self.grid = grid
        self.channels = self.backbone.channels["c5"] * grid**2
        self.pixels = None if metadata["stride"] == "pytorch" else checkpoints.style_of(metadata)
        self.requires_grad_(False).train(False)

    def train(self, mode: bool = True):
        return super().train(False)

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised RGB images [N, 3, S, S] -> the backbone's levels, c2 to c5."""
        if self.pixels:
            images = F.normalize(images, [-m / s for m, s in zip(MEAN, STD)], [1 / s for s in STD])
            images = images.flip(1) if self.pixels["channel_order"] == "BGR" else images
            images = F.normalize(images, self.pixels["mean"], self.pixels["std"])
        return self.backbone(images)

    def forward(self, images: Tensor) -> Tensor:
        c5 = self.levels(images)["c5"].float()
        height, width = (side - self.grid + 1 for side in c5.shape[2:])
        return c5.unfold(2, height, 1).unfold(3, width, 1).mean((4, 5)).flatten(1)

    @torch.no_grad()
    def of_crops(self, crops: Tensor) -> Tensor:
        """uint8 crops [N, 3, S, S] on any device -> features [N, C] on the module's; bfloat16 inside on a GPU."""
        device = next(self.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return self(normalised(crops.to(device, non_blocking=True)))


def normalised(crops: Tensor) -> Tensor:
    """uint8 crops -> float32, by ImageNet's mean and deviation."""
    return F.normalize(F.to_dtype(crops, torch.float32, scale=True), MEAN, STD)


def frozen(job: Job) -> tuple[PooledC5, dict]:
    """The job's backbone on this process's device, and the report of loading it. Raises CheckpointError."""
    torch.manual_seed(job.seed)
    config = job.protocol.config
    model = PooledC5(config["arch"], job.checkpoint.metadata, config.get("features", {}).get("grid", 1))
    report = checkpoints.load_into(model, job.checkpoint, [("", "backbone.")], job.checkpoint_path) if job.load else {}
    return model.to(get_device()), report


class Squares(Dataset):
    """Test-time squares: a list of image numbers -> uint8 [N, 3, side, side].

    Args:
        images: uint8 [M, 3, H, W], or paths.
        sizes: in pixels: `resize`, what the shorter side becomes; then `crop`, the side of the centre that is kept, or
            `squeeze`, the side of the square that the whole image becomes.
    """

    def __init__(self, images: Tensor | list, sizes: dict):
        self.images, self.sizes = images, sizes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, numbers: list[int]) -> Tensor:
        if isinstance(self.images, Tensor):
            return self._squared(self.images[numbers])
        return torch.stack([F.pil_to_tensor(self._squared(self._decoded(self.images[i]))) for i in numbers])

    def _squared(self, image):
        image = F.resize(image, [self.sizes["resize"]], antialias=True)
        if "squeeze" in self.sizes:
            return F.resize(image, [self.sizes["squeeze"]] * 2, antialias=True)
        return F.center_crop(image, [self.sizes["crop"]])

    @staticmethod
    def _decoded(path: Path):
        try:
            return rgb(path)
        except ImageError as error:
            raise DataError(f"image {error}; fetch or prepare it again") from None

    def loader(self, batches: list[list[int]], workers: int) -> DataLoader:
        """The crops of each batch of numbers, in order; by worker processes where images must be decoded."""
        return DataLoader(self, sampler=batches, batch_size=None, pin_memory=torch.cuda.is_available(),
                          num_workers=0 if isinstance(self.images, Tensor) else workers)


def extract(job: Job, model: PooledC5, images: Tensor | list, split: str) -> list[Path]:
    """Unit-length features of a split's images: files of float16 [CHUNK, C] in the images' order, the last shorter.

    The files lie beside the rows' work folders, under a name made of all that decides their content, so that
    every seed of a row reads the same ones. Ranks share the chunks out; a chunk that is there as it was written is not
    computed again, which is how an interrupted extraction goes on, unless the job starts over. Float16 keeps eleven
    binary digits, bfloat16 layers give eight.

    Args:
        images: uint8 [M, 3, H, W], or paths.
        split: what the folder and the progress bar call them.
    Raises DataError for an image that cannot be decoded.
    """
    config = job.protocol.config
    key = digest([job.identity if job.load else job.seed, [job.checkpoint.metadata[key] for key in checkpoints.STYLE],
                  job.data.fingerprint, job.limit, config["data"], model.grid, config["task"]["version"], get_device()])
    folder = job.work_dir.parent / "features" / f"{split}-{key[:12]}"
    chunks = [range(len(images))[start:start + CHUNK] for start in range(0, len(images), CHUNK)]
    paths = [folder / f"{chunk.start:08d}.npy" for chunk in chunks]
    with alone(folder):
        own = list(zip(chunks, paths))[dist.get_rank()::dist.get_world_size()]
        _compute(job, model, images, split, [(chunk, path) for chunk, path in own if not job.resume or flaw_of(path)])
        dist.barrier()
    return paths


def _compute(job: Job, model: PooledC5, images: Tensor | list, split: str, todo: list[tuple[range, Path]]) -> None:
    """Write the features of chunks of images."""
    paths = dict(todo)
    batches = [(chunk, list(chunk[i:i + BATCH])) for chunk, _ in todo for i in range(0, len(chunk), BATCH)]
    loader = Squares(images, job.protocol.config["data"]).loader([batch for _, batch in batches], job.workers)
    rows = []
    with progress_bar(disable=not dist.is_main_process()) as bar:
        for crops, (chunk, batch) in zip(bar.track(loader, description=f"{job.name}: {split} features"), batches):
            stop_if_asked()
            rows.append(normalize(model.of_crops(crops)).half().cpu())
            if batch[-1] == chunk[-1]:
                with replacing(paths[chunk], sealed=True) as temporary, open(temporary, "wb") as file:
                    np.save(file, torch.cat(rows).numpy())
                rows = []
