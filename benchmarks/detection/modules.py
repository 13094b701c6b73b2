"""Detector parts that mmdet lacks, registered in its `MODELS`. Importing this imports mmdet."""
from mmcv.cnn import ConvModule, build_norm_layer
from mmdet.models import FPN, FCNMaskHead, ResLayer, ResNet
from mmdet.registry import MODELS
from mmengine.model import normal_init
from torch import Tensor

from detco.batch_norm import SyncBatchNorm2d


@MODELS.register_module()
class Res5ExtraNorm(ResLayer):
    """ResNet's res5 on each RoI, followed by one extra normalisation layer.

    MoCo (arXiv 1911.05722, section 4.2 and appendix): features that were not supervised have another scale
    than the heads expect. `norm_eval` is False here, where mmdet's ResLayer freezes the statistics by default.

    `forward`: RoI features [R, C4, 14, 14] -> [R, C5, 7, 7].
    """

    def __init__(self, depth: int, norm_cfg: dict, norm_eval: bool = False, **kwargs):
        super().__init__(depth, norm_cfg=norm_cfg, norm_eval=norm_eval, **kwargs)
        channels = 64 * 2**self.stage * ResNet.arch_settings[depth][0].expansion
        self.norm = build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


@MODELS.register_module()
class SmallInitMaskHead(FCNMaskHead):
    """mmdet's mask head with detectron2's start: a predictor of standard deviation 0.001.

    mmdet's own grows as the classes get fewer (1 at two classes: a mask loss of 5 where ln 2 is chance).
    """

    def init_weights(self) -> None:
        super().init_weights()
        normal_init(self.conv_logits, std=0.001)


@MODELS.register_module()
class PlainTopFPN(FPN):
    """RetinaNet's FPN (arXiv 1708.02002, section 4): P6 is a convolution of C5, P7 one of P6 after ReLU.

    Neither is normalised, as in detectron2, whatever `norm_cfg` says of the other levels; mmdet's FPN would.
    """

    def __init__(self, in_channels: list[int], out_channels: int, num_outs: int, **kwargs):
        super().__init__(in_channels, out_channels, num_outs, add_extra_convs="on_input",
                         relu_before_extra_convs=True, **kwargs)
        for i in range(len(in_channels), num_outs):
            channels = in_channels[-1] if i == len(in_channels) else out_channels
            self.fpn_convs[i] = ConvModule(channels, out_channels, 3, stride=2, padding=1, act_cfg=None)


# The SyncBN of processes without CUDA, where torch has none.
MODELS.register_module(name="DetCoSyncBN", module=SyncBatchNorm2d)
