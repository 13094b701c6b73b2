# What every detector shares: torchvision's ResNet, every layer trained, and the pixels it takes.
# benchmarks/task.py fills in '{depth}'; '{c2}' to '{c5}', the backbone's channels; '{num_classes}'; and keys of `data`.

# SyncBN where the run has several processes.
_norm = dict(type='BN', requires_grad=True)
# detectron2's Xavier of layers that no ReLU follows (Caffe2's): a deviation of 1 / sqrt(inputs), uniform.
_xavier = dict(type='Kaiming', distribution='uniform', mode='fan_in', a=1, nonlinearity='leaky_relu')

# Of every detector, for the tasks' `differences`: what is known to differ from the published protocol.
_differences = [
    'OpenCV resizes the images; detectron2 takes Pillow, whose bilinear filter also averages where it shrinks. Where '
    "COCO's and VOC's photos are enlarged, as most are, both agree to rounding. Size on the scores: not measured.",
    'Under `--max-per-process` batch norm sees each part by itself, where ranks synchronise theirs. Size: not '
    'measured; rows to be compared should be run alike (`cost.accumulation` in their records).',
    'A process that takes its whole share of the batch at once averages losses over all of its positives, where ranks '
    'of two images average over their own first; `--max-per-process 2` does as they do. Estimated at less than the '
    'noise between seeds.',
]

model = dict(
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        # ImageNet's, RGB; images are read as BGR.
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(
        # 0 would freeze the stem; with norm_eval=True SyncBN would be inert.
        type='ResNet', depth='{depth}', frozen_stages=-1, norm_cfg=_norm, norm_eval=False, style='pytorch'))

# Where a checkpoint with torchvision's names goes: the first rule whose prefix fits, the prefix replaced.
# Parameters outside the rules' targets start fresh.
load = [('', 'backbone.')]
