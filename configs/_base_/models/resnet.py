# What every detector shares: torchvision's ResNet, every layer trained, and the pixels it takes.
# benchmarks/task.py fills in '{depth}'; '{c2}' to '{c5}', the backbone's channels; '{num_classes}'; and keys of `data`.

# SyncBN where the run has several processes.
_norm = dict(type='BN', requires_grad=True)

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
