# Keypoint R-CNN with FPN on COCO's persons: detectron2's Base-Keypoint-RCNN-FPN, every layer trained.
_base_ = ['./coco_maskrcnn_fpn.py']

task = dict(
    name='coco_keypointrcnn_fpn', main_metric='keypoints_AP', metrics=['keypoints', 'bbox'],
    source='DetCo table 5; detectron2 Base-Keypoint-RCNN-FPN')

model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(pad_mask=False),
    roi_head=dict(
        type='KeypointRoIHead',
        # detectron2: with plain L1 the keypoints' AP falls, though the boxes' rises.
        bbox_head=dict(loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=0.5, loss_weight=1.0)),
        mask_roi_extractor=None,
        mask_head=None,
        keypoint_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0, aligned=True),
            out_channels=256, featmap_strides=[4, 8, 16, 32]),
        # 56 x 56 heat maps.
        keypoint_head=dict(type='KeypointRCNNHead', in_channels=256, channels=512, num_convs=8)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=1500)))

data = dict(dataset='KeypointDataset', source='person')

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadKeypointAnnotations', with_bbox=True),
    dict(type='RandomChoiceResize', scales='{train_scales}', keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackKeypointInputs'),
]
evaluator = dict(type='KeypointMetric', metric=['bbox'])

schedules = {
    '_delete_': True,
    '1x': dict(iterations=90000, milestones=[60000, 80000]),
    '2x': dict(iterations=180000, milestones=[120000, 160000]),
}
