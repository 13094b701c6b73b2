# What Mask R-CNN has in common with C4 features and with FPN: detectron2's defaults.
_base_ = ['./resnet.py']

model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(pad_mask=True),
    rpn_head=dict(
        type='RPNHead',
        anchor_generator=dict(type='EveryAnchor', ratios=[0.5, 1.0, 2.0], center_offset=0.0),
        bbox_coder=dict(
            type='DeltaCoder', target_means=[0., 0., 0., 0.], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', sampling_ratio=0, aligned=True)),
        bbox_head=dict(
            num_classes='{num_classes}',
            bbox_coder=dict(
                type='DeltaCoder', target_means=[0., 0., 0., 0.], target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
        mask_head=dict(
            type='PolygonMaskHead', conv_out_channels=256, num_classes='{num_classes}',
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0))),
    train_cfg=dict(
        rpn=dict(
            # detectron2 gives every object its best anchor, however small the overlap: min_pos_iou 0.
            assigner=dict(
                type='BestMatchAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.0, match_low_quality=True,
                ignore_iof_thr=-1),
            sampler=dict(
                type='RandomSampler', num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False),
            # -1: anchors may cross the image's border.
            allowed_border=-1, pos_weight=-1, debug=False),
        rpn_proposal=dict(nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(
            assigner=dict(
                type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False,
                ignore_iof_thr=-1),
            sampler=dict(
                type='RandomSampler', num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
            pos_weight=-1, debug=False)),
    test_cfg=dict(
        rpn=dict(nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5)))
