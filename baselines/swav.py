"""SwAV (arXiv 2006.09882): an image's views predict each other's codes, shares in prototypes that images use evenly."""
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.simsiam import normalised
from detco.backbone import ResNetLevels, pooled
from detco.batch_norm import known_statistics
from detco.distributed import gather, rank_part
from detco.errors import UserError
from detco.memory_bank import MemoryBank
from detco.method import Method
from detco.views import View

COLDEST = 0.025  # epsilon, below which exp(-2 / epsilon), a share of an opposite prototype, nears float32's least


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes of images: exp(scores / epsilon) scaled until every prototype has the same share in all ranks' images, and
    each image's shares add up to one (section 3.1, algorithm 1). The latter holds exactly, the former nearly, the more
    so the more iterations.

    Args:
        scores: cosines [N, K] of this rank's images and the prototypes; ranks may hold different N.
    Returns:
        [N, K], this rank's.
    """
    codes = ((scores - 1) / epsilon).exp()
    for _ in range(iterations):
        codes = codes / gather(codes.sum(0, keepdim=True)).sum(0)
        codes = codes / codes.sum(1, keepdim=True)
    return codes


class SwAV(Method):
    """SwAV with its small crops and queue.

    Args:
        arch: torchvision ResNet.
        global_view, small_view: fields of `detco.views.View`: of the two views that codes are taken of, and of those
            `small_views` that only predict them (section 3.2, multi-crop).
        dim, hidden: of the features and of the projector's hidden layer, 128 and 2048.
        prototypes: their number, 3000.
        temperature, epsilon, iterations: of predictions, 0.1, and of the codes' Sinkhorn steps, 0.05 and 3.
        bank_size: earlier features of each global view that take part in the codes, as a batch smaller than the number
            of prototypes cannot use them evenly (section 3.1; 3840 with a batch of 256, table 3); 0 for none.
        bank_from, frozen: shares of the run before which the bank takes no part and prototypes rest: 15 and one of the
            authors' 200 epochs.
        statistics: as in `detco.detco.DetCo`; there are no patches that could have a say.

    Batches of parts take the codes of each part by itself.

    Raises:
        UserError: an epsilon that float32 cannot hold.
    """

    batch_norm = "sync"  # appendix A.1

    def __init__(self, arch: str = "resnet50", global_view: dict | None = None, small_view: dict | None = None,
                 small_views: int = 6, dim: int = 128, hidden: int = 2048, prototypes: int = 3000,
                 temperature: float = 0.1, epsilon: float = 0.05, iterations: int = 3, bank_size: int = 3840,
                 bank_from: float = 0.075, frozen: float = 0.005, statistics: str = "trained"):
        super().__init__()
        if epsilon < COLDEST:
            raise UserError(f"swav: epsilon {epsilon}: give {COLDEST} or more")
        wide, small = View(**(global_view or {})), View(**(small_view or dict(size=96, area=(0.05, 0.14))))
        self.kinds = [["global_1", "global_2"], [f"small_{i + 1}" for i in range(small_views)]]
        self.view_specs = dict.fromkeys(self.kinds[0], wide) | dict.fromkeys(self.kinds[1], small)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.bank_from, self.frozen, self.statistics = bank_from, frozen, known_statistics(statistics)
        self.encoder = ResNetLevels(arch)
        self.projector = nn.Sequential(nn.Linear(self.encoder.channels["c5"], hidden, bias=False), *normalised(hidden),
                                       nn.ReLU(inplace=True), nn.Linear(hidden, dim))
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, dim)))
        self.banks = nn.ModuleList(MemoryBank(bank_size, dim) for _ in self.kinds[0] if bank_size)
        self._found: list[Tensor] = []  # features [2, N, dim] of the global views of each part of a step

    def loss(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy of every view's softmax over prototypes and each other global view's codes, through which no
        gradient flows (section 3.1, equation 2), a mean over pairs. Views of a size pass the backbone together, all of
        them the projector, as in the authors' code."""
        c5 = [pooled(self.encoder(torch.cat([views[name] for name in names]))["c5"]) for names in self.kinds if names]
        features = F.normalize(self.projector(torch.cat(c5)).float()).unflatten(0, (len(self.view_specs), -1))
        self._found.append(features[:2].detach())
        # Frozen ones have a gradient of zero, not none: ranks reduce all that there are.
        prototypes = self.prototypes.detach().lerp(self.prototypes, float(self.progress >= self.frozen))
        with torch.autocast(features.device.type, enabled=False):
            scores = features @ prototypes.T  # [views, N, K]
            codes = torch.stack([self._codes(i, own) for i, own in enumerate(scores[:2])])
            logs = F.log_softmax(scores / self.temperature, 2)
            pairs = -(codes * (logs.sum(0) - logs[:2])).sum(2).mean(1)  # each code against all views but its own
            return {"loss": pairs.mean() / (len(scores) - 1)}

    def _codes(self, view: int, scores: Tensor) -> Tensor:
        """Codes [N, K] of a global view's scores; the bank's features, shared out among ranks, are coded with them."""
        n = len(scores)
        if self.banks and self.progress >= self.bank_from:
            bank = cast(MemoryBank, self.banks[view])
            scores = torch.cat([scores, rank_part(bank.keys) @ self.prototypes.T])
        return sinkhorn(scores, self.epsilon, self.iterations)[:n]

    @torch.no_grad()
    def after_step(self) -> None:
        """Every rank's features enter the banks, and prototypes return to length one."""
        for bank, features in zip(self.banks, torch.cat(self._found, 1)):
            cast(MemoryBank, bank).enqueue(gather(features))
        self._found = []
        self.prototypes.copy_(F.normalize(self.prototypes))

    def backbone(self) -> nn.Module:
        return self.encoder
