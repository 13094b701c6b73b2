# Mask R-CNN with C4 features: res5 on each RoI, followed by one extra normalisation.
_base_ = ['./mask_rcnn.py']

model = dict(
    data_preprocessor=dict(pad_size_divisor=1),
    backbone=dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2, )),
    rpn_head=dict(
        in_channels='{c4}', feat_channels='{c4}',
        # Anchors of 32, 64, 128, 256 and 512 pixels.
        anchor_generator=dict(scales=[2, 4, 8, 16, 32], strides=[16])),
    roi_head=dict(
        shared_head=dict(
            type='Res5ExtraNorm', depth='{depth}', stage=3, stride=2, dilation=1, style='pytorch',
            norm_cfg=_base_._norm, norm_eval=False),
        bbox_roi_extractor=dict(roi_layer=dict(output_size=14), out_channels='{c4}', featmap_strides=[16]),
        bbox_head=dict(type='BBoxHead', with_avg_pool=True, roi_feat_size=7, in_channels='{c5}'),
        # None: the mask head reads res5 of the positive boxes, as computed for the box head.
        mask_roi_extractor=None,
        mask_head=dict(num_convs=0, in_channels='{c5}')),
    train_cfg=dict(rpn_proposal=dict(nms_pre=12000, max_per_img=2000), rcnn=dict(mask_size=14)),
    test_cfg=dict(rpn=dict(nms_pre=6000, max_per_img=1000)))

load = [('layer4.', 'roi_head.shared_head.layer4.'), ('', 'backbone.')]
