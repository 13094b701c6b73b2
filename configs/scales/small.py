"""Real photos: pretrains on Imagenette at 64 pixels, transfers to COCO photos at 160; a night of two CPU cores."""
data = 'small'  # whose data it takes (benchmarks.data.sources)
arch = 'resnet18'

# Rules (condition, dotted changes) of detco.config.fitting: sizes go by kind of part, whatever method or task has it.
pretrain = [
    ('', {
        'method.arch': arch,
        'method.global_view.size': 64,
        'method.global_view.blur_sigma': (0.1, 0.57),  # in proportion to the size: 2 pixels at 224
        'method.small_view.size': 28,
        'method.small_view.blur_sigma': (0.1, 0.57),
        'method.local_view.size': 72,
        'method.local_view.patch': 18,
        'method.local_view.blur_sigma': (0.1, 0.57),
    }),
    # Chosen by pilots (docs/pilots.md). A run of 1,480 steps needs a quick momentum encoder, and that needs a bank of
    # two steps: the keys of many are told apart by their age alone.
    ('method.bank_size', {
        'method.bank_size': 256,
        'method.momentum': 0.99,
        'method.temperature': 0.1,
        'method.statistics': 'global',  # those left by training cost k-NN of C5 up to three points
        'optimizer.weight_decay': 5e-4,
    }),
    ('optimizer', {
        'schedule': dict(epochs=20, batch=128, policy='cosine'),
        'monitor': dict(knn_every=2, resize=72, crop=64),
    }),
]

tasks = [
    # Every detector.
    ('model', {
        'data.short_sides': [144, 152, 160, 168, 176],
        'data.max_side': 256,
        'data.test_short_side': 160,
        'data.test_max_side': 256,
        'data.total_batch': 4,
        'schedules': {
            'small': dict(iterations=300, milestones=[200, 265]),
            # At 300 iterations detectors do not learn yet to place boxes: of AP50, 16 points are lost to that alone.
            'long': dict(iterations=1200, milestones=[800, 1060]),
        },
        'warmup.iterations': 30,
        'optimizer.optimizer.lr': 0.01,
        'precise_bn.iterations': 30,
        'model.train_cfg.rpn.sampler.num': 128,
        'model.train_cfg.rpn_proposal.nms_pre': 1000,
        'model.train_cfg.rpn_proposal.max_per_img': 250,
        'model.train_cfg.rcnn.sampler.num': 32,
    }),
    # C4: res5 on each RoI.
    ('model.roi_head.shared_head', {
        'model.rpn_head.anchor_generator.scales': [1, 2, 4, 8],  # 16 to 128 pixels
        # A person covers two to ten cells of C4: 8 x 8 samples a RoI, 4 x 4 after res5.
        'model.roi_head.bbox_roi_extractor.roi_layer.output_size': 8,
        'model.roi_head.bbox_head.roi_feat_size': 4,
        'model.test_cfg.rpn.nms_pre': 1000,
        'model.test_cfg.rpn.max_per_img': 50,
    }),
    ('model.roi_head.shared_head and model.roi_head.mask_head', {
        'model.train_cfg.rcnn.mask_size': 8,
        'model.test_cfg.rcnn.max_per_img': 20,  # res5 runs once more on each detection, for its mask
    }),
    # FPN, and the heads that read its levels.
    ('model.neck', {
        'model.neck.out_channels': 64,
        'model.rpn_head.in_channels': 64,
        'model.rpn_head.feat_channels': 64,
        'model.test_cfg.rpn.nms_pre': 500,
        'model.test_cfg.rpn.max_per_img': 100,
        'model.test_cfg.rcnn.max_per_img': 50,
        'model.roi_head.bbox_roi_extractor.out_channels': 64,
        'model.roi_head.bbox_head.in_channels': 64,
        'model.roi_head.bbox_head.conv_out_channels': 64,
        'model.roi_head.bbox_head.fc_out_channels': 256,
        # The heads' own convolutions start faint: see the mini scale.
        'model.roi_head.mask_roi_extractor.out_channels': 64,
        'model.roi_head.mask_head.in_channels': 64,
        'model.roi_head.mask_head.conv_out_channels': 128,
        'model.roi_head.mask_head.num_convs': 2,
        'model.roi_head.keypoint_roi_extractor.out_channels': 64,
        'model.roi_head.keypoint_head.in_channels': 64,
        'model.roi_head.keypoint_head.channels': 128,
        'model.roi_head.keypoint_head.num_convs': 2,
    }),
    # R-CNN with FPN.
    ('model.neck and model.rpn_head.anchor_generator', {
        'model.rpn_head.anchor_generator.scales': [4],  # 16 to 256 pixels
        'optimizer.optimizer.lr': 0.02,
    }),
    # One stage: a dense head on every level.
    ('model.bbox_head', {
        'model.bbox_head.in_channels': 64,
        'model.bbox_head.feat_channels': 64,
        'model.bbox_head.stacked_convs': 1,  # four start so faint that hundreds of steps pass before they speak
        'model.bbox_head.anchor_generator.octave_base_scale': 2,
        'model.test_cfg.nms_pre': 500,
        'model.test_cfg.max_per_img': 50,
    }),
    # Learnt proposals, refined stage by stage.
    ('model.rpn_head.num_proposals', {
        'data.crop_sides': [120, 136, 152],
        'data.crop_size': (100, 136),
        'model.rpn_head.num_proposals': 50,
        'model.rpn_head.proposal_feature_channel': 64,
        'model.roi_head.proposal_feature_channel': 64,
        'model.roi_head.bbox_head.*.in_channels': 64,
        'model.roi_head.bbox_head.*.dynamic_conv_cfg.in_channels': 64,
        'model.roi_head.bbox_head.*.dynamic_conv_cfg.out_channels': 64,
        'model.roi_head.bbox_head.*.feedforward_channels': 256,
        'model.test_cfg.rcnn.max_per_img': 50,
        'optimizer.optimizer.lr': 2e-4,
    }),
    # A share of the images.
    ('schedules.10%', {'schedules': {
        f'{share}%': dict(iterations=200, milestones=[130, 175], share=share) for share in (10, 5)}}),
    # Image level.
    ('data.source=imagenet', {'data.resize': 72, 'data.crop': 64}),
    ('data.source=voc07_labels', {'data.resize': 144, 'data.squeeze': 128}),
    ('knn', {'knn.k': 20}),
    ('classifier', {
        'data.total_batch': 128,
        'optimizer.lr': 0.01,
        'schedules': {'small': dict(epochs=10, milestones=[6, 8])},
    }),
]
