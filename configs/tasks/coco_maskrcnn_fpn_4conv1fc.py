# Mask R-CNN with FPN on COCO, box head of four convolutions and one layer, heads normalised: what others report.
_base_ = ['../_base_/models/mask_rcnn_fpn.py', '../_base_/data/coco_instance.py', '../_base_/schedules/coco.py']

task = dict(
    name='coco_maskrcnn_fpn_4conv1fc', main_metric='bbox_AP', metrics=['bbox', 'segm'],
    version=2,  # 1 had mmdet's anchors, matches, objects and Xavier, masks from bitmaps, own moments in precise BN
    source='detectron2 mask_rcnn_R_50_FPN_3x_syncbn; reported by InfoMin and others as "4conv1fc"',
    differences=_base_._differences)

model = dict(
    roi_head=dict(
        # Normalised convolutions in both heads, as in detectron2's file.
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=_base_._norm),
        mask_head=dict(norm_cfg=_base_._norm)))
