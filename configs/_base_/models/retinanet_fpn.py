# RetinaNet with FPN P3 to P7: detectron2's.
_base_ = ['./resnet.py']

model = dict(
    type='RetinaNet',
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(num_stages=4, out_indices=(1, 2, 3)),
    neck=dict(
        type='PlainTopFPN', in_channels=['{c3}', '{c4}', '{c5}'], out_channels=256, num_outs=5, norm_cfg=_base_._norm,
        init_cfg=_base_._xavier | dict(layer='Conv2d')),
    bbox_head=dict(
        # Both losses are divided by a moving average of positive anchors.
        type='AveragedRetinaHead', parts=1, num_classes='{num_classes}', in_channels=256, stacked_convs=4,
        feat_channels=256,
        anchor_generator=dict(
            type='EveryAnchor', octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128], center_offset=0.0),
        bbox_coder=dict(
            type='DeltaCoder', target_means=[0., 0., 0., 0.], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    train_cfg=dict(
        assigner=dict(type='BestMatchAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
