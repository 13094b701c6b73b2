# Mask R-CNN with C4 features on COCO, at the paper scale: MoCo's (arXiv 1911.05722) and DetCo's protocol.
# Numbers are those of their public configurations, else detectron2's defaults for C4.
_base_ = ['../_base_/models/mask_rcnn_c4.py', '../_base_/data/coco_instance.py', '../_base_/schedules/coco.py']

task = dict(
    name='coco_maskrcnn_c4', version=1, main_metric='bbox_AP', metrics=['bbox', 'segm'],
    source='MoCo and DetCo detection configs; detectron2 Base-RCNN-C4')

# The public configurations of pretrained C4 rows hold the longer side at 1200; a task knows no methods, so every row
# does.
data = dict(max_side=1200)
