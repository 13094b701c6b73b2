# Keypoint R-CNN with FPN on COCO's persons: detectron2's Base-Keypoint-RCNN-FPN, every layer trained.
_base_ = ['../_base_/models/keypoint_rcnn_fpn.py', '../_base_/data/coco_keypoint.py', '../_base_/schedules/sgd.py']

task = dict(
    name='coco_keypointrcnn_fpn', main_metric='keypoints_AP', metrics=['keypoints', 'bbox'],
    version=2,  # 1 had mmdet's anchors, matches, objects and Xavier, and own moments in precise BN
    source='DetCo table 5; detectron2 Base-Keypoint-RCNN-FPN',
    differences=_base_._differences)

schedules = {
    '1x': dict(iterations=90000, milestones=[60000, 80000]),
    '2x': dict(iterations=180000, milestones=[120000, 160000]),
}
