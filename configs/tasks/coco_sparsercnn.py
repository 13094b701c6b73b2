# Sparse R-CNN with 300 proposals on COCO, 3x, multi-scale and random crop: its authors' configuration for DetCo.
# As theirs, and unlike the other tasks: the FPN is not normalised, weight decay spares no parameter, and images without
# objects are trained on.
_base_ = ['../_base_/models/sparse_rcnn.py', '../_base_/data/coco_detection.py', '../_base_/schedules/steps.py']

task = dict(
    name='coco_sparsercnn', version=2,  # 1 normalised the FPN, spared norms the decay and left empty images out
    main_metric='bbox_AP', metrics=['bbox'],
    source="DetCo's README; Sparse R-CNN (arXiv 2011.12450), sparsercnn.res50.300pro.3x.detco")

# Shorter sides. Half of the images are scaled to `crop_sides` first, however long, and cropped to sides between the two
# of `crop_size`, as in DETR.
data = dict(
    short_sides=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
    crop_sides=[400, 500, 600], crop_size=(384, 600), filter_cfg=dict(filter_empty_gt=False))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[
        [dict(type='RandomChoiceResize', scales='{train_scales}', keep_ratio=True)],
        [dict(type='RandomChoiceResize', scales='{crop_scales}', keep_ratio=True),
         dict(type='RandomCrop', crop_type='absolute_range', crop_size='{crop_size}', allow_negative_crop=True),
         dict(type='RandomChoiceResize', scales='{train_scales}', keep_ratio=True)]]),
    dict(type='PackDetInputs'),
]

schedules = {'3x': dict(iterations=270000, milestones=[210000, 250000])}
warmup = dict(start_factor=0.01)
optimizer = dict(
    optimizer=dict(type='AdamW', lr=2.5e-5, weight_decay=1e-4), clip_grad=dict(max_norm=1.0, norm_type=2))
