# Mask R-CNN with C4 features on COCO, at the paper scale: MoCo's (arXiv 1911.05722) and DetCo's protocol.
# Numbers are those of their public configurations, else detectron2's defaults for C4.
_base_ = ['../_base_/models/mask_rcnn_c4.py', '../_base_/data/coco_instance.py', '../_base_/schedules/coco.py']

task = dict(
    name='coco_maskrcnn_c4', main_metric='bbox_AP', metrics=['bbox', 'segm'],
    version=2,  # 1 had mmdet's anchors, matches and objects, masks from bitmaps, own moments in precise BN
    source='DetCo tables 3, 4 and 13, C4; MoCo and DetCo detection configs; detectron2 Base-RCNN-C4',
    differences=[
        *_base_._differences,
        "The longer side is held at 1200 pixels in every row, as in DetCo's configurations of pretrained rows; those "
        "of its supervised and random rows, and MoCo's, hold it at 1333. At the sizes drawn, one image in 20 is "
        'smaller for it, by 8 % (1,693 photos of COCO). Estimated at 0.1 AP or less.'])

# A task knows no methods, so every row has the pretrained rows' 1200.
data = dict(max_side=1200)
