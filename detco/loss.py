"""InfoNCE against a memory bank, without ever holding the N x K logits."""
import torch
from torch import Tensor

from detco.errors import UserError

CHUNK = 8192  # bank rows a block on CPUs, whose caches then hold the logits
LOGITS = 2**22  # rows of a block x N on devices, 16 MB: few queries take large blocks, so that few kernels start
# The lowest temperatures at which exp(-2 / t), an opposite key beside the query itself, is far from vanishing.
COLDEST = {torch.float32: 0.025, torch.float64: 0.003}


class _InfoNCE(torch.autograd.Function):
    """The log-sum-exp over the bank and its gradient in one pass.

    d logsumexp(q B^T / t) / dq = softmax(q B^T / t) B / t is attention of the query over the bank, so one pass over
    blocks yields both, and backward only scales what forward kept ([N, D]). No maximum is sought before exponentials
    are taken: with unit keys no logit is above |q| / t.
    """

    @staticmethod
    def forward(ctx, query: Tensor, positive: Tensor, bank: Tensor, temperature: float) -> Tensor:
        scaled = query / temperature
        logit, top = (scaled * positive).sum(1), scaled.norm(dim=1)  # [N]
        total = (logit - top).exp()  # sum of exp(logit - top), the positive's first
        mean_key = positive * total[:, None]  # sum of exp(logit - top) * key
        for block in bank.split(CHUNK if bank.device.type == "cpu" else max(1, LOGITS // len(query))):
            weights = torch.addmm(-top, block, scaled.T).exp_()  # [rows, N]
            total.add_(weights.sum(0))
            mean_key.addmm_(weights.T, block)
        ctx.save_for_backward((mean_key / total[:, None] - positive) / temperature)
        return top + total.log() - logit

    @staticmethod
    def backward(ctx, grad: Tensor):
        (slope,) = ctx.saved_tensors
        return grad[:, None] * slope, None, None, None


def info_nce(query: Tensor, positive: Tensor, bank: Tensor, temperature: float) -> Tensor:
    """InfoNCE of each query: -log exp(q.k+ / t) / (exp(q.k+ / t) + sum over the bank of exp(q.k / t)).

    Args:
        query: [N, D] unit vectors, the only argument that receives a gradient.
        positive: [N, D] unit vectors, one positive key a query.
        bank: [K, D] unit vectors, the negative keys.
        temperature: t, 0.2 in DetCo and MoCo v2; 0.003 or more (UserError).
    Returns:
        [N] losses in nats, float32, also under autocast; float64 for float64 input and for temperatures below 0.025.
    Source: DetCo section 3.2; the same as cross entropy with target 0 over the logits [q.k+, q.bank] / t.
    """
    if temperature < COLDEST[torch.float64]:
        raise UserError(f"temperature {temperature}: InfoNCE takes {COLDEST[torch.float64]} or more")
    with torch.autocast(query.device.type, enabled=False):
        least = torch.float32 if temperature >= COLDEST[torch.float32] else torch.float64
        dtype = torch.promote_types(query.dtype, least)
        return _InfoNCE.apply(query.to(dtype), positive.to(dtype), bank.to(dtype), temperature)
