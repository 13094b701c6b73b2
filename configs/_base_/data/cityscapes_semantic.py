# Cityscapes' label maps of 19 classes.
data = dict(
    source='cityscapes_semantic', dataset='SemanticDataset', total_batch=16, image_size=(2048, 1024),
    scale_range=(0.5, 2.0), crop_size=(769, 769), filter_cfg=None, batch_sampler=None)

train_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadAnnotations', with_bbox=False, with_seg=True),
    dict(type='RandomResize', scale='{image_size}', ratio_range='{scale_range}', keep_ratio=True),
    dict(type='RandomCrop', crop_size='{crop_size}', allow_negative_crop=True),
    # Scaled below the crop's size: filled with the mean pixel (BGR), which has no label.
    dict(type='Pad', size='{crop_size}', pad_val=dict(img=(103.53, 116.28, 123.675), seg=255)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
# Tested at the images' own size.
test_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadAnnotations', with_bbox=False, with_seg=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'seg_map_path', 'ori_shape', 'img_shape')),
]
evaluator = dict(type='SemanticMetric')
