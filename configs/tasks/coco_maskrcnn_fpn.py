# Mask R-CNN with FPN on COCO, at the paper scale: detectron2's Base-RCNN-FPN, every layer trained.
# Data, schedules, optimiser and precise BN are those of coco_maskrcnn_c4.
_base_ = ['../_base_/models/mask_rcnn_fpn.py', '../_base_/data/coco_instance.py', '../_base_/schedules/coco.py']

task = dict(
    name='coco_maskrcnn_fpn', main_metric='bbox_AP', metrics=['bbox', 'segm'],
    version=2,  # 1 had mmdet's anchors, matches, objects and Xavier, masks from bitmaps, own moments in precise BN
    source='DetCo tables 3, 4 and 13; detectron2 Base-RCNN-FPN',
    differences=_base_._differences)
