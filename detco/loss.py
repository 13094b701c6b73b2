"""InfoNCE against a memory bank, without ever holding the N x K logits."""
import torch
from torch import Tensor

CHUNK = 8192  # bank rows a block; N x CHUNK logits is the largest temporary


class _InfoNCE(torch.autograd.Function):
    """The log-sum-exp over the bank and its gradient in one pass.

    d logsumexp(q B^T / t) / dq = softmax(q B^T / t) B / t is attention of the query over the bank, so one
    online softmax over blocks yields both, and backward only scales what forward kept ([N, D]).
    """

    @staticmethod
    def forward(ctx, query: Tensor, positive: Tensor, bank: Tensor, temperature: float) -> Tensor:
        logit = (query * positive).sum(1) / temperature  # [N]
        top, total = logit.clone(), torch.ones_like(logit)  # running maximum and sum of exp(logit - maximum)
        mean_key = positive.clone()  # running sum of exp(logit - maximum) * key, the positive included
        for block in bank.split(CHUNK):
            logits = query @ block.T / temperature
            new_top = torch.maximum(top, logits.amax(1))
            shrink = (top - new_top).exp()
            weights = (logits - new_top[:, None]).exp_()
            total = total * shrink + weights.sum(1)
            mean_key = torch.addmm(mean_key * shrink[:, None], weights, block)
            top = new_top
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
        bank: [K, D] negative keys.
        temperature: t, 0.2 in DetCo and MoCo v2.
    Returns:
        [N] losses in nats, float32 (float64 for float64 input), also under autocast.
    Source: DetCo section 3.2; the same as cross entropy with target 0 over the logits [q.k+, q.bank] / t.
    """
    with torch.autocast(query.device.type, enabled=False):
        dtype = torch.promote_types(query.dtype, torch.float32)
        return _InfoNCE.apply(query.to(dtype), positive.to(dtype), bank.to(dtype), temperature)
