# Faster R-CNN with C4 features on VOC07+12 trainval, tested on VOC07 test: MoCo's protocol (arXiv 1911.05722, table 2).
# AP, AP50 and AP75 are COCO's, over 101 recall points. The published ones are detectron2's for VOC07, over 11 points:
# close, not the same scale.
_base_ = ['../_base_/models/mask_rcnn_c4.py', '../_base_/data/coco_detection.py', '../_base_/schedules/sgd.py']

task = dict(
    name='voc_fasterrcnn_c4', version=1, main_metric='bbox_AP', metrics=['bbox'],
    source='DetCo table 6; MoCo detection config pascal_voc_R_50_C4_24k')

model = dict(type='FasterRCNN', data_preprocessor=dict(pad_mask=False), roi_head=dict(mask_head=None))

data = dict(source='voc', short_sides=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800])

schedules = {'24k': dict(iterations=24000, milestones=[18000, 22000])}
warmup = dict(iterations=100)
