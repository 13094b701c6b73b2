# FCN for semantic segmentation at stride 16: MoCo's (arXiv 1911.05722, appendix).
_base_ = ['./resnet.py']

model = dict(
    type='SemanticFCN',
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    # C5 keeps C4's stride of 16, with dilation 2 in its place.
    backbone=dict(num_stages=4, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), out_indices=(3, )),
    head=dict(
        type='FCNHead', in_channels='{c5}', channels=256, num_convs=2, dilation=6, num_classes='{num_classes}',
        norm_cfg=_base_._norm, ignore_index=255))
