# Sparse R-CNN with 300 proposals: its authors'. Unlike the other detectors', the FPN is not normalised.
_base_ = ['./resnet.py']

_stages = 6

model = dict(
    type='SparseRCNN',
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(num_stages=4, out_indices=(0, 1, 2, 3)),
    neck=dict(
        type='FPN', in_channels=['{c2}', '{c3}', '{c4}', '{c5}'], out_channels=256, num_outs=4,
        init_cfg=_base_._xavier | dict(layer='Conv2d')),
    rpn_head=dict(type='EmbeddingRPNHead', num_proposals=300, proposal_feature_channel=256),
    roi_head=dict(
        type='ClippedSparseRoIHead', num_stages=_stages, stage_loss_weights=[1] * _stages, proposal_feature_channel=256,
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2, aligned=True),
            out_channels=256, featmap_strides=[4, 8, 16, 32]),
        bbox_head=[dict(
            type='FlooredDIIHead', num_classes='{num_classes}', num_ffn_fcs=2, num_heads=8, num_cls_fcs=1,
            num_reg_fcs=3, feedforward_channels=2048, in_channels=256, dropout=0.0,
            ffn_act_cfg=dict(type='ReLU', inplace=True),
            dynamic_conv_cfg=dict(
                type='DynamicConv', in_channels=256, feat_channels=64, out_channels=256, input_feat_shape=7,
                act_cfg=dict(type='ReLU', inplace=True), norm_cfg=dict(type='LN')),
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
            bbox_coder=dict(
                # Sides may grow further than in detectron2's other detectors.
                type='DeltaCoder', growth=100000 / 16, clip_border=False, target_means=[0., 0., 0., 0.],
                target_stds=[0.5, 0.5, 1., 1.])) for _ in range(_stages)]),
    train_cfg=dict(rpn=None, rcnn=[dict(
        assigner=dict(type='HungarianAssigner', match_costs=[
            dict(type='FocalLossCost', weight=2.0),
            dict(type='BBoxL1Cost', weight=5.0, box_format='xyxy'),
            dict(type='IoUCost', iou_mode='giou', weight=2.0)]),
        sampler=dict(type='PseudoSampler'), pos_weight=1) for _ in range(_stages)]),
    test_cfg=dict(rpn=None, rcnn=dict(max_per_img=300)))
