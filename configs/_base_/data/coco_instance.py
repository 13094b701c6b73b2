# Boxes and masks of a data set in COCO's form.
_base_ = ['./coco_detection.py']

train_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadInstances', with_bbox=True, with_mask=True),
    dict(type='RandomChoiceResize', scales='{train_scales}', keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
evaluator = dict(metric=['bbox', 'segm'])
