"""Detectors in bfloat16 where asked (`--amp`): their networks alone; coordinates, scores and losses stay float32."""
import re
from typing import Any

import torch
from mmengine.device import get_device
from torch import nn

HEADS = re.compile(r"(^|\.)(?!roi_head)\w*head(\.\d+)?$")  # by a module's name; of roi_head its parts
EXTRACTORS = re.compile(r"\w*roi_extractor$")


def in_bfloat16(model: nn.Module) -> nn.Module:
    """The same detector, which trains and tests under autocast to bfloat16; its weights stay float32.

    mmdet makes anchors in the type of a head's output and RoIs in that of the features. At 1,333 pixels bfloat16's
    eight bits are off by up to four, so heads give float32 and RoIs are cut from float32.
    """
    for name, module in model.named_modules():
        if HEADS.search(name):
            module.register_forward_hook(lambda _module, _inputs, output: _float32(output))
        if EXTRACTORS.search(name):
            module.register_forward_pre_hook(lambda _module, inputs: _float32(inputs))
    model.forward = torch.autocast(get_device(), torch.bfloat16)(model.forward)
    return model


def _float32(value: Any) -> Any:
    """Tensors of bfloat16, in lists and tuples too, as float32."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_float32, value))
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value
