# Mask R-CNN with C4 features on COCO, at the paper scale: MoCo's (arXiv 1911.05722) and DetCo's protocol.
# Numbers are those of their public configurations, else detectron2's defaults for C4.

# '{depth}', '{c4}', '{c5}', '{num_classes}', '{train_scales}', '{test_scale}' are filled in by benchmarks/task.py.

task = dict(
    name='coco_maskrcnn_c4', version=1, main_metric='bbox_AP', metrics=['bbox', 'segm'],
    source='MoCo and DetCo detection configs; detectron2 Base-RCNN-C4')

# SyncBN where the run has several processes.
norm = dict(type='BN', requires_grad=True)

model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        # ImageNet's, RGB; images are read as BGR.
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        pad_mask=True, pad_size_divisor=1),
    backbone=dict(
        type='ResNet', depth='{depth}', num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2, ),
        # 0 would freeze the stem; with norm_eval=True SyncBN would be inert.
        frozen_stages=-1, norm_cfg=norm, norm_eval=False, style='pytorch'),
    rpn_head=dict(
        type='RPNHead', in_channels='{c4}', feat_channels='{c4}',
        # Anchors of 32, 64, 128, 256 and 512 pixels.
        anchor_generator=dict(
            type='AnchorGenerator', scales=[2, 4, 8, 16, 32], ratios=[0.5, 1.0, 2.0], strides=[16],
            center_offset=0.0),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    roi_head=dict(
        type='StandardRoIHead',
        shared_head=dict(
            type='Res5ExtraNorm', depth='{depth}', stage=3, stride=2, dilation=1, style='pytorch',
            norm_cfg=norm, norm_eval=False),
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0, aligned=True),
            out_channels='{c4}', featmap_strides=[16]),
        bbox_head=dict(
            type='BBoxHead', with_avg_pool=True, roi_feat_size=7, in_channels='{c5}', num_classes='{num_classes}',
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
        # None: the mask head reads res5 of the positive boxes, as computed for the box head.
        mask_roi_extractor=None,
        mask_head=dict(
            type='SmallInitMaskHead', num_convs=0, in_channels='{c5}', conv_out_channels=256,
            num_classes='{num_classes}',
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0))),
    train_cfg=dict(
        rpn=dict(
            # detectron2 gives every object its best anchor, however small the overlap: min_pos_iou 0.
            assigner=dict(
                type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.0, match_low_quality=True,
                ignore_iof_thr=-1),
            sampler=dict(
                type='RandomSampler', num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False),
            # -1: anchors may cross the image's border.
            allowed_border=-1, pos_weight=-1, debug=False),
        rpn_proposal=dict(nms_pre=12000, max_per_img=2000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(
            assigner=dict(
                type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False,
                ignore_iof_thr=-1),
            sampler=dict(
                type='RandomSampler', num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
            mask_size=14, pos_weight=-1, debug=False)),
    test_cfg=dict(
        rpn=dict(nms_pre=6000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5)))

data = dict(
    dataset='CocoDataset', total_batch=16,
    # Pixels. The public configurations of pretrained C4 rows hold the longer side at 1200; a task knows no
    # methods, so every row does.
    short_sides=[640, 672, 704, 736, 768, 800], max_side=1200, test_short_side=800, test_max_side=1333,
    # detectron2: images without objects are left out; a batch is all landscape or all portrait.
    filter_cfg=dict(filter_empty_gt=True), batch_sampler=dict(type='AspectRatioBatchSampler'))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomChoiceResize', scales='{train_scales}', keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale='{test_scale}', keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
# COCO's own limits on detections an image; mmdet's default is that of proposals.
evaluator = dict(type='CocoMetric', metric=['bbox', 'segm'], proposal_nums=(1, 10, 100))

schedules = {
    '12k': dict(iterations=12000, milestones=[9000, 11000]),
    '1x': dict(iterations=90000, milestones=[60000, 80000]),
    '2x': dict(iterations=180000, milestones=[120000, 160000]),
}
lr_decay = 0.1
warmup = dict(iterations=1000, start_factor=0.001)
optimizer = dict(
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4), paramwise_cfg=dict(norm_decay_mult=0.))
precise_bn = dict(iterations=200)

# Where a checkpoint with torchvision's names goes: the first rule whose prefix fits, the prefix replaced.
# Parameters outside the rules' targets start fresh.
load = [('layer4.', 'roi_head.shared_head.layer4.'), ('', 'backbone.')]
