# Boxes and keypoints of COCO's persons.
_base_ = ['./coco_detection.py']

data = dict(dataset='KeypointDataset', source='person')

train_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadKeypointAnnotations', with_bbox=True),
    dict(type='RandomChoiceResize', scales='{train_scales}', keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackKeypointInputs'),
]
evaluator = dict(type='KeypointMetric')
