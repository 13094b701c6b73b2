# RetinaNet with FPN P3 to P7 on COCO, at the paper scale: detectron2's RetinaNet, every layer trained.
_base_ = ['./coco_maskrcnn_fpn.py']

task = dict(
    name='coco_retinanet_fpn', metrics=['bbox'], version=2,  # 1 had a smooth L1 loss of beta 0.1
    source='DetCo table 5; detectron2 Base-RetinaNet')

norm = dict(type='BN', requires_grad=True)

model = dict(
    _delete_=True,
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(
        type='ResNet', depth='{depth}', num_stages=4, out_indices=(1, 2, 3), frozen_stages=-1, norm_cfg=norm,
        norm_eval=False, style='pytorch'),
    neck=dict(
        type='PlainTopFPN', in_channels=['{c3}', '{c4}', '{c5}'], out_channels=256, num_outs=5, norm_cfg=norm),
    bbox_head=dict(
        type='RetinaHead', num_classes='{num_classes}', in_channels=256, stacked_convs=4, feat_channels=256,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128], center_offset=0.0),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        # Both losses are divided by this batch's positives; detectron2 by their moving average.
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomChoiceResize', scales='{train_scales}', keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
evaluator = dict(metric=['bbox'])

optimizer = dict(optimizer=dict(lr=0.01))
