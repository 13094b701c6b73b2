"""What ranks, real or virtual, share: the process group, gathered keys, keys under shuffled batch statistics."""
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine import dist
from torch import Tensor

from detco import files
from detco.errors import UserError

PATIENCE = 300  # seconds that ranks wait for another run: collectives give up after ten minutes or more


def join() -> None:
    """Join the processes torchrun or Slurm's srun started, over NCCL; over gloo where torchrun finds no CUDA.
    Alone, do nothing."""
    by_torchrun, by_srun = "LOCAL_RANK" in os.environ, int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    if dist.is_distributed() or not (by_torchrun or by_srun):
        return
    if by_torchrun and not torch.cuda.is_available():
        torch.distributed.init_process_group("gloo")
    else:
        dist.init_dist("pytorch" if by_torchrun else "slurm")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the one run, of however many ranks, that works in a folder (`detco.files.alone`)."""
    several = dist.get_world_size() > 1
    with files.alone(folder, PATIENCE if several else None) if dist.is_main_process() else contextlib.nullcontext():
        dist.barrier()
        yield


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """Concatenate [N, ...] of every rank in rank order: [ranks * N, ...]."""
    return torch.cat(dist.all_gather(x)) if dist.get_world_size() > 1 else x


def splits_here(ranks: int, parts: int, processes: int | None = None) -> int:
    """Into how many virtual ranks a process divides each part of its batch, so that there are `ranks` in all; where
    processes and parts are more than that, each is one. Raises UserError where they do not come out even."""
    processes = processes or dist.get_world_size()
    there = processes * parts
    if ranks < 1 or (ranks % there and there % ranks):
        raise UserError(f"bn_splits {ranks} do not divide among {processes} processes"
                        + f" and {parts} parts of each" * (parts > 1))
    return max(1, ranks // there)


def check_splits(splits: int, images: int) -> None:
    """Raise UserError for splits that do not divide so many images, or leave one image to itself."""
    if splits > 1 and (images % splits or images == splits):
        raise UserError(f"bn_splits: {splits} splits of {images} images: give a number that divides them into two or "
                        "more each")


@torch.no_grad()
def shuffled(encode, parts: list[Tensor], generator: torch.Generator, splits: int = 1) -> list[Tensor]:
    """Keys of every rank's images, computed under shuffled batch statistics (MoCo's shuffle-BN).

    An image travels to the one rank that encodes it. MoCo gathers every image on every rank, as many times the
    traffic and the memory as there are ranks, for the same keys.

    Args:
        encode: images [N, ...] -> list of [N, D] tensors; normalises each of its `splits` by itself.
        parts: this rank's images, [N, ...] a part; every rank holds as many. Parts and splits are virtual ranks.
        generator: in the same state on every rank; draws the permutation. With one virtual rank nothing is shuffled
            and nothing drawn.
        splits: of a part, consecutive and equal.
    Returns:
        one tensor [ranks * parts * N, D] a level, in the order of the unshuffled images, the same on every rank.
    Raises:
        UserError: splits that do not divide a part, or of one image.
    """
    ranks, rank, n = dist.get_world_size(), dist.get_rank(), len(parts[0])
    check_splits(splits, n)
    if ranks * len(parts) * splits == 1:
        return encode(parts[0])
    own = len(parts) * n
    order = torch.randperm(ranks * own, generator=generator).view(-1, n // splits).sort().values  # by virtual rank
    order = order.view(ranks, own)  # row r: what rank r encodes
    source = order // own
    sent = [wanted[there == rank] - rank * own for wanted, there in zip(order, source)]
    leave, place, back = (i.to(parts[0].device, non_blocking=True) for i in (
        torch.cat(sent), source[rank].argsort(stable=True).argsort(), order.flatten().argsort()))
    mixed = (torch.cat(parts) if len(parts) > 1 else parts[0])[leave]
    if ranks > 1:
        received = torch.empty_like(mixed, memory_format=torch.contiguous_format)
        torch.distributed.all_to_all_single(received, mixed.contiguous(), source[rank].bincount(
            minlength=ranks).tolist(), [len(s) for s in sent])
        mixed = received[place]  # they came by the rank that sent them
    levels = zip(*(encode(part) for part in mixed.split(n)))
    return [gather(torch.cat(keys))[back] for keys in levels]


def rank_part(x: Tensor) -> Tensor:
    """This rank's part [N, ...] of a tensor [ranks * N, ...] in rank order."""
    return x.chunk(dist.get_world_size())[dist.get_rank()]
