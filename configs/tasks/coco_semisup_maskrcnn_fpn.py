# Mask R-CNN with FPN on 1, 2, 5 or 10 % of COCO train2017; the share is the schedule's name (--share).
# The paper prints no iterations. Its random-init rows at 5 and 10 % all but equal those of 12k on the whole of COCO
# (Mask R-CNN 9.2 and 10.1 against 10.7, RetinaNet 3.6 and 3.7 against 4.0 AP), so every share takes 12k: inferred.
_base_ = ['../_base_/models/mask_rcnn_fpn.py', '../_base_/data/coco_instance.py', '../_base_/schedules/coco_shares.py']

task = dict(
    name='coco_semisup_maskrcnn_fpn', main_metric='bbox_AP', metrics=['bbox', 'segm'],
    version=2,  # 1 had mmdet's anchors, matches, objects and Xavier, masks from bitmaps, own moments in precise BN
    source='DetCo tables 10 and 11',
    differences=_base_._differences)
