# Sparse R-CNN with 300 proposals on COCO, 3x, multi-scale and random crop: its authors' configuration for DetCo.
# As theirs, and unlike the other tasks: the FPN is not normalised, weight decay spares no parameter, and images without
# objects are trained on.
_base_ = ['./coco_retinanet_fpn.py']

task = dict(
    name='coco_sparsercnn', version=2,  # 1 normalised the FPN, spared norms the decay and left empty images out
    source="DetCo's README; Sparse R-CNN (arXiv 2011.12450), sparsercnn.res50.300pro.3x.detco")

norm = dict(type='BN', requires_grad=True)
stages = 6

model = dict(
    _delete_=True,
    type='SparseRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(
        type='ResNet', depth='{depth}', num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=-1, norm_cfg=norm,
        norm_eval=False, style='pytorch'),
    neck=dict(type='FPN', in_channels=['{c2}', '{c3}', '{c4}', '{c5}'], out_channels=256, num_outs=4),
    rpn_head=dict(type='EmbeddingRPNHead', num_proposals=300, proposal_feature_channel=256),
    roi_head=dict(
        type='SparseRoIHead', num_stages=stages, stage_loss_weights=[1] * stages, proposal_feature_channel=256,
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2, aligned=True),
            out_channels=256, featmap_strides=[4, 8, 16, 32]),
        bbox_head=[dict(
            type='DIIHead', num_classes='{num_classes}', num_ffn_fcs=2, num_heads=8, num_cls_fcs=1, num_reg_fcs=3,
            feedforward_channels=2048, in_channels=256, dropout=0.0, ffn_act_cfg=dict(type='ReLU', inplace=True),
            dynamic_conv_cfg=dict(
                type='DynamicConv', in_channels=256, feat_channels=64, out_channels=256, input_feat_shape=7,
                act_cfg=dict(type='ReLU', inplace=True), norm_cfg=dict(type='LN')),
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder', clip_border=False, target_means=[0., 0., 0., 0.],
                target_stds=[0.5, 0.5, 1., 1.])) for _ in range(stages)]),
    train_cfg=dict(rpn=None, rcnn=[dict(
        assigner=dict(type='HungarianAssigner', match_costs=[
            dict(type='FocalLossCost', weight=2.0),
            dict(type='BBoxL1Cost', weight=5.0, box_format='xyxy'),
            dict(type='IoUCost', iou_mode='giou', weight=2.0)]),
        sampler=dict(type='PseudoSampler'), pos_weight=1) for _ in range(stages)]),
    test_cfg=dict(rpn=None, rcnn=dict(max_per_img=300)))

# Shorter sides. Half of the images are scaled to `crop_sides` first, however long, and cropped to sides between the two
# of `crop_size`, as in DETR.
data = dict(
    short_sides=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
    crop_sides=[400, 500, 600], crop_size=(384, 600), filter_cfg=dict(filter_empty_gt=False))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[
        [dict(type='RandomChoiceResize', scales='{train_scales}', keep_ratio=True)],
        [dict(type='RandomChoiceResize', scales='{crop_scales}', keep_ratio=True),
         dict(type='RandomCrop', crop_type='absolute_range', crop_size='{crop_size}', allow_negative_crop=True),
         dict(type='RandomChoiceResize', scales='{train_scales}', keep_ratio=True)]]),
    dict(type='PackDetInputs'),
]

schedules = dict(
    _delete_=True,
    **{'3x': dict(iterations=270000, milestones=[210000, 250000])})
warmup = dict(iterations=1000, start_factor=0.01)
optimizer = dict(
    _delete_=True,
    optimizer=dict(type='AdamW', lr=2.5e-5, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0, norm_type=2))
