# Faster R-CNN with C4 features on VOC07+12 trainval, tested on VOC07 test: MoCo's protocol (arXiv 1911.05722, table 2).
# `voc_AP`, `voc_AP50` and `voc_AP75` are detectron2's for VOC07, as published: 11 recall points, difficult objects
# count neither way, AP the mean over IoUs from 0.5 to 0.95. COCO's stand beside them.
_base_ = ['../_base_/models/mask_rcnn_c4.py', '../_base_/data/coco_detection.py', '../_base_/schedules/sgd.py']

task = dict(
    name='voc_fasterrcnn_c4', main_metric='voc_AP', metrics=['voc', 'bbox'],
    version=2,  # 1 scored by COCO's rules, and had mmdet's anchors, matches and objects and own moments in precise BN
    source='DetCo table 6; MoCo detection config pascal_voc_R_50_C4_24k',
    differences=_base_._differences)

model = dict(type='FasterRCNN', data_preprocessor=dict(pad_mask=False), roi_head=dict(mask_head=None))

data = dict(source='voc', short_sides=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800])

schedules = {'24k': dict(iterations=24000, milestones=[18000, 22000])}
warmup = dict(iterations=100)
