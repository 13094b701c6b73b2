# Mask R-CNN with FPN on COCO, box head of four convolutions and one layer, heads normalised: what other projects report.
_base_ = ['./coco_maskrcnn_fpn.py']

task = dict(
    name='coco_maskrcnn_fpn_4conv1fc',
    source='detectron2 mask_rcnn_R_50_FPN_3x_syncbn; reported by InfoMin and others as "4conv1fc"')

norm = dict(type='BN', requires_grad=True)

model = dict(
    roi_head=dict(
        # Normalised convolutions in both heads, as in detectron2's file.
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm),
        mask_head=dict(norm_cfg=norm)))
