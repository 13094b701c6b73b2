# Mask R-CNN with FPN: detectron2's Base-RCNN-FPN, a box head of two layers and a mask head of four convolutions.
_base_ = ['./mask_rcnn.py']

_strides = [4, 8, 16, 32]

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(num_stages=4, strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), out_indices=(0, 1, 2, 3)),
    neck=dict(
        # P6 is P5 subsampled, for the RPN alone. The FPN is normalised too, as in MoCo and DetCo.
        type='FPN', in_channels=['{c2}', '{c3}', '{c4}', '{c5}'], out_channels=256, num_outs=5,
        norm_cfg=_base_._norm, init_cfg=_base_._xavier | dict(layer='Conv2d')),
    rpn_head=dict(
        in_channels=256, feat_channels=256,
        # Anchors of 32 to 512 pixels, one size a level.
        anchor_generator=dict(scales=[8], strides=[*_strides, 64])),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(output_size=7), out_channels=256, featmap_strides=_strides),
        bbox_head=dict(
            type='Shared2FCBBoxHead', in_channels=256, fc_out_channels=1024, roi_feat_size=7,
            init_cfg=[
                dict(type='Normal', std=0.01, override=dict(name='fc_cls')),
                dict(type='Normal', std=0.001, override=dict(name='fc_reg')),
                _base_._xavier | dict(override=dict(name='shared_fcs'))]),
        mask_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0, aligned=True),
            out_channels=256, featmap_strides=_strides),
        mask_head=dict(num_convs=4, in_channels=256)),
    # Proposals: the first number a level, the second an image.
    train_cfg=dict(rpn_proposal=dict(nms_pre=2000, max_per_img=1000), rcnn=dict(mask_size=28)),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=1000)))
