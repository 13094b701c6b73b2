"""The supervised row of the papers on detection: MSRA's ResNet-50, in the style of its training."""
from pathlib import Path

import torch
from torch import nn

from detco import checkpoint as checkpoints
from detco.backbone import ResNetLevels
from detco.errors import UserError
from detco.files import sha256
from detco.method import Method

# Caffe's: its pixels are in [0, 255], of which the mean alone is subtracted.
STYLE = dict(stride="caffe", channel_order="BGR", mean=[m / 255 for m in (103.53, 116.28, 123.675)], std=[1 / 255] * 3)
URL = "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl"


class SupervisedMSRA(Method):
    """The weights that He et al. (arXiv 1512.03385) trained on ImageNet in Caffe, in detectron2's copy; nothing trains.

    Tasks run it in the style of its training (`detco.checkpoint.style_of`), and its rows' metadata say so.

    Args:
        file: detectron2's R-50.pkl: a path, or a name in torch hub's folder of checkpoints.
    Raises:
        UserError: no such file. CheckpointError: what `detco.checkpoint.load` raises.
    """

    def __init__(self, file: str = "R-50.pkl"):
        super().__init__()
        path = Path(torch.hub.get_dir()) / "checkpoints" / file
        if not path.is_file():
            raise UserError(f"supervised_msra: its weights are not at {path}; fetch them: curl --create-dirs -o {path} "
                            f"{URL}")
        loaded = checkpoints.load(path, **STYLE)
        # What they were trained on, and for how long, no file says.
        self.metadata = STYLE | dict(pool=None, budget=None, parent=sha256(path))
        self.encoder = ResNetLevels(loaded.metadata["arch"], "caffe")
        self.encoder.load_state_dict(loaded.state, strict=False)  # Caffe counts no batches; all else `load` has checked

    def backbone(self) -> nn.Module:
        return self.encoder
