"""What runs take: bytes of the states they resume from, counted; time and memory by rows already filed."""
from statistics import median
from typing import Any

KEPT = 3  # states of a run at once: the two that it keeps, and the one being written
DETECTOR = 4  # a detector's state, momenta included, takes less than so many times its backbone's weights


def state_bytes(recipe: dict[str, Any]) -> int:
    """Bytes of one state of a pretraining: weights, momentum encoder, banks, and the optimiser's momenta."""
    import torch

    from detco import engine

    with torch.device("meta"):
        method = engine.build(recipe, 1000)
    values = [*method.state_dict().values(), *(p for p in method.parameters() if p.requires_grad)]
    return sum(value.numel() * value.element_size() for value in values)


def detector_bytes(arch: str) -> int:
    """Bytes that one state of a detector takes at most."""
    import torch

    from detco.backbone import ResNetLevels

    with torch.device("meta"):
        weights = ResNetLevels(arch).state_dict().values()
    return DETECTOR * sum(value.numel() * value.element_size() for value in weights)


def filed_cost(records: list[dict[str, Any]], key: str, **wanted: Any) -> float | None:
    """The median of a cost ("wall_seconds", "peak_memory_bytes", ...) over the filed records with these fields, of
    those on this machine's device where there are such."""
    from mmengine.device import get_device

    from benchmarks.environment import device_name

    found = [record["cost"] for record in records if record["cost"].get(key) is not None
             and all(record[k] == v for k, v in wanted.items())]
    here = [cost for cost in found if cost["device"] == device_name(get_device())]
    return median(cost[key] for cost in here or found) if found else None


def filed_hours(records: list[dict[str, Any]], recipe: str) -> float | None:
    """The median of the device hours that pretrainings under a recipe (its hash) took."""
    budgets = {record["checkpoint"]["hash"]: (record["checkpoint"].get("metadata") or {}).get("budget") or {}
               for record in records if record["recipe"]["hash"] == recipe}
    hours = [budget["device_hours"] for budget in budgets.values() if budget.get("device_hours") is not None]
    return median(hours) if hours else None
