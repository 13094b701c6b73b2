# RetinaNet with FPN P3 to P7 on COCO, at the paper scale: detectron2's RetinaNet, every layer trained.
_base_ = ['../_base_/models/retinanet_fpn.py', '../_base_/data/coco_detection.py', '../_base_/schedules/coco.py']

task = dict(
    name='coco_retinanet_fpn', main_metric='bbox_AP', metrics=['bbox'],
    # 1 had a smooth L1 loss of beta 0.1; 2 mmdet's anchors, matches, objects, Xavier and normaliser, and own moments in
    # precise BN.
    version=3,
    source='DetCo table 5; detectron2 Base-RetinaNet',
    differences=_base_._differences)

optimizer = dict(optimizer=dict(lr=0.01))
