# Boxes of a data set in COCO's form.
data = dict(
    dataset='InstanceDataset', total_batch=16,
    # Pixels.
    short_sides=[640, 672, 704, 736, 768, 800], max_side=1333, test_short_side=800, test_max_side=1333,
    # detectron2: images without objects, but for crowds, are left out; a batch is all landscape or all portrait.
    filter_cfg=dict(filter_empty_gt=True), batch_sampler=dict(type='AspectRatioBatchSampler'))

train_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadInstances', with_bbox=True),
    dict(type='RandomChoiceResize', scales='{train_scales}', keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImage'),
    dict(type='Resize', scale='{test_scale}', keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
# COCO's own limits on detections an image; mmdet's default is that of proposals.
evaluator = dict(type='CocoMetric', metric=['bbox'], proposal_nums=(1, 10, 100))
