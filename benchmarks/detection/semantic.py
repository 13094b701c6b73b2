"""Semantic segmentation on mmdetection's data structures: data set, FCN and mIoU. Importing this imports mmdet."""
import json
from itertools import pairwise
from pathlib import Path

import cv2
import torch
import torch.nn.functional as F
from hotcoco.semantic import SemanticEval
from mmcv.cnn import ConvModule
from mmdet.datasets import BaseSegDataset
from mmdet.models import BaseDetector
from mmdet.registry import DATASETS, METRICS, MODELS
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModule
from mmengine.structures import PixelData
from torch import Tensor, nn

from detco.files import replacing


@DATASETS.register_module()
class SemanticDataset(BaseSegDataset):
    """Images and label maps in Cityscapes' folders: <city>/<name>_leftImg8bit.png, <city>/<name>_labelTrainIds.png.

    Args:
        ann_file: the folder of label maps.
        data_prefix: {"img": the folder of images}.
    """

    def __init__(self, ann_file: str, data_prefix: dict, **kwargs):
        super().__init__(data_prefix=dict(img_path=data_prefix["img"], seg_map_path=ann_file),
                         img_suffix="_leftImg8bit.png", seg_map_suffix="_labelTrainIds.png", **kwargs)


@MODELS.register_module()
class FCNHead(BaseModule):
    """Dilated 3 x 3 convolutions and a 1 x 1 classifier (MoCo, arXiv 1911.05722, appendix).

    `forward`: C5 [N, C, h, w] -> logits [N, classes, h, w].

    Args:
        in_channels, channels: of C5 and of the convolutions.
        num_convs, dilation: of the convolutions.
        ignore_index: label that has no loss.
    """

    def __init__(self, in_channels: int, channels: int, num_convs: int, dilation: int, num_classes: int,
                 norm_cfg: dict, ignore_index: int):
        super().__init__(init_cfg=dict(type="Normal", layer="Conv2d", std=0.01, override=dict(name="classifier")))
        widths = [in_channels] + [channels] * num_convs
        self.convs = nn.Sequential(*(ConvModule(i, o, 3, padding=dilation, dilation=dilation, norm_cfg=norm_cfg)
                                     for i, o in pairwise(widths)))
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.ignore_index = ignore_index

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self.convs(features))

    def loss(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy of features against labels [N, H, W] at the labels' size, over pixels that have one."""
        logits = F.interpolate(self(features), labels.shape[1:], mode="bilinear")
        return dict(loss_seg=F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="sum")
                    / (labels != self.ignore_index).sum().clamp(min=1))


@MODELS.register_module()
class SemanticFCN(BaseDetector):
    """A fully convolutional network: backbone, then `head`."""

    def __init__(self, backbone: dict, head: dict, data_preprocessor: dict):
        super().__init__(data_preprocessor=data_preprocessor)
        self.backbone, self.head = MODELS.build(backbone), MODELS.build(head)

    def extract_feat(self, batch_inputs: Tensor) -> Tensor:
        return self.backbone(batch_inputs)[-1]

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        labels = torch.cat([sample.gt_sem_seg.sem_seg for sample in batch_data_samples]).long()
        return self.head.loss(self.extract_feat(batch_inputs), labels)

    def predict(self, batch_inputs: Tensor, batch_data_samples: list, rescale: bool = True) -> list:
        """Adds `pred_sem_seg.sem_seg` uint8 [1, H, W], at the images' own size, to each sample."""
        logits = F.interpolate(self(batch_inputs), batch_inputs.shape[2:], mode="bilinear")
        for sample, padded in zip(batch_data_samples, logits):
            height, width = sample.img_shape
            scores = F.interpolate(padded[None, :, :height, :width], sample.ori_shape, mode="bilinear")
            sample.pred_sem_seg = PixelData(sem_seg=scores.argmax(1).byte())
        return batch_data_samples

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None) -> Tensor:
        return self.head(self.extract_feat(batch_inputs))


@METRICS.register_module()
class SemanticMetric(BaseMetric):
    """Writes each predicted map as <outfile_prefix>.mIoU/<image>.png, and hotcoco's mIoU over them, with the
    confusion counts, as <outfile_prefix>.mIoU.json (`benchmarks.detection.evaluate.semantic_metrics` reads it)."""

    def __init__(self, outfile_prefix: str, **kwargs):
        super().__init__()
        self.folder = Path(f"{outfile_prefix}.mIoU")

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for sample in data_samples:
            path = self.folder / f"{Path(sample['img_path']).stem}.png"
            cv2.imwrite(str(path), sample["pred_sem_seg"]["sem_seg"][0].cpu().numpy())
            self.results.append((sample["seg_map_path"], str(path)))

    def compute_metrics(self, results: list) -> dict:
        evaluation = SemanticEval(list(self.dataset_meta["classes"]))
        for truth, prediction in results:
            evaluation.update_png(truth, prediction)
        found = evaluation.results()
        scores = {c["name"]: None if c["IoU"] < 0 else c["IoU"] for c in found["per_class"]}
        report = dict(mIoU=found["mIoU"], per_class=scores, confusion=evaluation.confusion().tolist())
        with replacing(self.folder.with_name(f"{self.folder.name}.json")) as temporary:
            temporary.write_text(json.dumps(report))
        return dict(mIoU=found["mIoU"])
