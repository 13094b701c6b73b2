# Mask R-CNN with FPN on COCO, at the paper scale: detectron2's Base-RCNN-FPN, every layer trained.
# Data, schedules, optimiser and precise BN are those of coco_maskrcnn_c4.
_base_ = ['./coco_maskrcnn_c4.py']

task = dict(name='coco_maskrcnn_fpn', source='DetCo tables 3, 4 and 13; detectron2 Base-RCNN-FPN')

norm = dict(type='BN', requires_grad=True)

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(num_stages=4, strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), out_indices=(0, 1, 2, 3)),
    neck=dict(
        # P6 is P5 subsampled, for the RPN alone. The FPN is normalised too, as in MoCo and DetCo.
        type='FPN', in_channels=['{c2}', '{c3}', '{c4}', '{c5}'], out_channels=256, num_outs=5, norm_cfg=norm),
    rpn_head=dict(
        in_channels=256, feat_channels=256,
        # Anchors of 32 to 512 pixels, one size a level.
        anchor_generator=dict(scales=[8], strides=[4, 8, 16, 32, 64])),
    roi_head=dict(
        _delete_=True,
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0, aligned=True),
            out_channels=256, featmap_strides=[4, 8, 16, 32]),
        bbox_head=dict(
            type='Shared2FCBBoxHead', in_channels=256, fc_out_channels=1024, roi_feat_size=7,
            num_classes='{num_classes}',
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
        mask_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0, aligned=True),
            out_channels=256, featmap_strides=[4, 8, 16, 32]),
        mask_head=dict(
            type='SmallInitMaskHead', num_convs=4, in_channels=256, conv_out_channels=256,
            num_classes='{num_classes}',
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0))),
    # Proposals: the first number a level, the second an image.
    train_cfg=dict(rpn_proposal=dict(nms_pre=2000, max_per_img=1000), rcnn=dict(mask_size=28)),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=1000)))

data = dict(max_side=1333)

load = [('', 'backbone.')]
