# Mask R-CNN with FPN on Cityscapes' eight classes with instances: detectron2's configuration, every layer trained.
# AP and AP50 are pycocotools' on the instances in COCO's form; the published ones are of Cityscapes' own script, which
# matches instances by pixels in a way of its own.
_base_ = ['../_base_/models/mask_rcnn_fpn.py', '../_base_/data/coco_instance.py', '../_base_/schedules/sgd.py']

task = dict(
    name='cityscapes_maskrcnn_fpn', version=1, main_metric='segm_AP', metrics=['bbox', 'segm'],
    source='DetCo table 7; detectron2 Cityscapes mask_rcnn_R_50_FPN')

data = dict(
    source='cityscapes', total_batch=8, short_sides=[800, 832, 864, 896, 928, 960, 992, 1024], max_side=2048,
    test_short_side=1024, test_max_side=2048)

schedules = {'24k': dict(iterations=24000, milestones=[18000])}
optimizer = dict(optimizer=dict(lr=0.01))
