# FCN on Cityscapes' 19 semantic classes, stride 16: MoCo's protocol (arXiv 1911.05722, appendix).
_base_ = ['./coco_maskrcnn_fpn.py']

task = dict(
    name='cityscapes_semseg_fcn', main_metric='mIoU', metrics=['mIoU'],
    source='DetCo table 8; MoCo appendix, semantic segmentation')

norm = dict(type='BN', requires_grad=True)

model = dict(
    _delete_=True,
    type='SemanticFCN',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_seg=True, seg_pad_value=255),
    # C5 keeps C4's stride of 16, with dilation 2 in its place.
    backbone=dict(
        type='ResNet', depth='{depth}', num_stages=4, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), out_indices=(3, ),
        frozen_stages=-1, norm_cfg=norm, norm_eval=False, style='pytorch'),
    head=dict(
        type='FCNHead', in_channels='{c5}', channels=256, num_convs=2, dilation=6, num_classes='{num_classes}',
        norm_cfg=norm, ignore_index=255))

data = dict(
    _delete_=True,
    source='cityscapes_semantic', dataset='SemanticDataset', total_batch=16, image_size=(2048, 1024),
    scale_range=(0.5, 2.0), crop_size=(769, 769), filter_cfg=None, batch_sampler=None)

train_pipeline = [
    dict(type='LoadImageFromFile'),
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
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=False, with_seg=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'seg_map_path', 'ori_shape', 'img_shape')),
]
evaluator = dict(_delete_=True, type='SemanticMetric')

schedules = dict(_delete_=True, **{'90k': dict(iterations=90000, milestones=[63000, 81000])})
optimizer = dict(optimizer=dict(lr=0.01))
