# Keypoint R-CNN with FPN: detectron2's Base-Keypoint-RCNN-FPN. Mask R-CNN with keypoints in the masks' place.
_base_ = ['./mask_rcnn_fpn.py']

model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(pad_mask=False),
    roi_head=dict(
        type='KeypointRoIHead',
        # detectron2: with plain L1 the keypoints' AP falls, though the boxes' rises.
        bbox_head=dict(loss_bbox=dict(type='SmoothL1Loss', beta=0.5)),
        mask_roi_extractor=None,
        mask_head=None,
        keypoint_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0, aligned=True),
            out_channels=256, featmap_strides=_base_._strides),
        # 56 x 56 heat maps.
        keypoint_head=dict(type='KeypointRCNNHead', in_channels=256, channels=512, num_convs=8)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=1500)))
