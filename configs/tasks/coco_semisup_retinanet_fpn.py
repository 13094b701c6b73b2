# RetinaNet with FPN on 1, 2, 5 or 10 % of COCO train2017; the share is the schedule's name (--share).
# The paper prints no iterations. Its random-init rows at 5 and 10 % all but equal those of 12k on the whole of COCO
# (Mask R-CNN 9.2 and 10.1 against 10.7, RetinaNet 3.6 and 3.7 against 4.0 AP), so every share takes 12k: inferred.
_base_ = ['../_base_/models/retinanet_fpn.py', '../_base_/data/coco_detection.py', '../_base_/schedules/coco_shares.py']

task = dict(
    name='coco_semisup_retinanet_fpn', main_metric='bbox_AP', metrics=['bbox'],
    # 1 had a smooth L1 loss of beta 0.1; 2 mmdet's anchors, matches, objects, Xavier and normaliser, and own moments in
    # precise BN.
    version=3,
    source='DetCo table 12',
    differences=_base_._differences)

optimizer = dict(optimizer=dict(lr=0.01))
