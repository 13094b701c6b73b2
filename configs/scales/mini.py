"""Images the package draws itself; a laptop CPU, minutes. Checks the pipeline: its scores are not science."""
data = 'mini'  # whose data it takes (benchmarks.data.sources)
arch = 'resnet18'

# Rules (condition, dotted changes) of detco.config.fitting: sizes go by kind of part, whatever method or task has it.
# Sizes and counts shrink; the structure does not.
pretrain = [
    ('', {
        'method.arch': arch,
        'method.global_view.size': 48,
        'method.global_view.blur_sigma': (0.1, 0.5),
        'method.small_view.size': 20,
        'method.small_view.blur_sigma': (0.1, 0.5),
        'method.local_view.size': 54,
        'method.local_view.patch': 14,
        'method.local_view.blur_sigma': (0.1, 0.5),
        # Eight steps' keys: in a run of hundreds, older ones are told apart by their age alone.
        'method.bank_size': 256,
    }),
    ('optimizer', {'schedule': dict(epochs=4, batch=32, policy='cosine')}),
]

tasks = [
    # Every detector.
    ('model', {
        'data.short_sides': [144, 152, 160, 168, 176],
        'data.max_side': 224,
        'data.test_short_side': 160,
        'data.test_max_side': 224,
        'data.total_batch': 2,
        'schedules': {'mini': dict(iterations=200, milestones=[130, 175])},
        'warmup.iterations': 20,
        'optimizer.optimizer.lr': 0.01,
        'precise_bn.iterations': 10,
        'model.train_cfg.rpn.sampler.num': 64,
        'model.train_cfg.rpn_proposal.nms_pre': 500,
        'model.train_cfg.rpn_proposal.max_per_img': 100,
        'model.train_cfg.rcnn.sampler.num': 32,
    }),
    # C4: res5 on each RoI.
    ('model.roi_head.shared_head', {
        'model.rpn_head.anchor_generator.scales': [1, 2, 4, 6, 8],
        # An object covers two to six cells of C4: 8 x 8 samples a RoI are plenty, 4 x 4 after res5.
        'model.roi_head.bbox_roi_extractor.roi_layer.output_size': 8,
        'model.roi_head.bbox_head.roi_feat_size': 4,
        'model.test_cfg.rpn.nms_pre': 500,
        'model.test_cfg.rpn.max_per_img': 20,
    }),
    ('model.roi_head.shared_head and model.roi_head.mask_head', {
        'model.train_cfg.rcnn.mask_size': 8,
        'model.test_cfg.rcnn.max_per_img': 10,  # res5 runs once more on each detection, for its mask
    }),
    # FPN, and the heads that read its levels.
    ('model.neck', {
        'model.neck.out_channels': 64,
        'model.rpn_head.in_channels': 64,
        'model.rpn_head.feat_channels': 64,
        'model.test_cfg.rpn.nms_pre': 200,
        'model.test_cfg.rpn.max_per_img': 50,
        'model.test_cfg.rcnn.max_per_img': 20,
        'model.roi_head.bbox_roi_extractor.out_channels': 64,
        'model.roi_head.bbox_head.in_channels': 64,
        'model.roi_head.bbox_head.conv_out_channels': 64,
        'model.roi_head.bbox_head.fc_out_channels': 256,
        # The heads' own convolutions start faint: at their full number or at 64 channels, hundreds of steps draw no
        # mask; of the keypoints', which have no norms, eight learn nothing.
        'model.roi_head.mask_roi_extractor.out_channels': 64,
        'model.roi_head.mask_head.in_channels': 64,
        'model.roi_head.mask_head.conv_out_channels': 128,
        'model.roi_head.mask_head.num_convs': 2,
        'model.roi_head.keypoint_roi_extractor.out_channels': 64,
        'model.roi_head.keypoint_head.in_channels': 64,
        'model.roi_head.keypoint_head.channels': 128,
        'model.roi_head.keypoint_head.num_convs': 2,
    }),
    ('model.neck and model.rpn_head.anchor_generator', {'optimizer.optimizer.lr': 0.02}),
    ('model.roi_head.keypoint_head', {'schedules': {'mini': dict(iterations=250, milestones=[170, 225])}}),
    # One stage: a dense head on every level.
    ('model.bbox_head', {
        'model.bbox_head.in_channels': 64,
        'model.bbox_head.feat_channels': 64,
        'model.bbox_head.stacked_convs': 1,  # four start so faint that hundreds of steps pass before they speak
        'model.test_cfg.nms_pre': 200,
        'model.test_cfg.max_per_img': 20,
        'schedules': {'mini': dict(iterations=300, milestones=[200, 265])},
    }),
    # Learnt proposals, refined stage by stage.
    ('model.rpn_head.num_proposals', {
        'data.crop_sides': [120, 136, 152],
        'data.crop_size': (100, 136),
        'model.rpn_head.num_proposals': 20,
        'model.rpn_head.proposal_feature_channel': 64,
        'model.roi_head.proposal_feature_channel': 64,
        'model.roi_head.bbox_head.*.in_channels': 64,
        'model.roi_head.bbox_head.*.dynamic_conv_cfg.in_channels': 64,
        'model.roi_head.bbox_head.*.dynamic_conv_cfg.out_channels': 64,
        'model.roi_head.bbox_head.*.feedforward_channels': 256,
        'schedules': {'mini': dict(iterations=450, milestones=[320, 410])},
        'optimizer.optimizer.lr': 2e-4,
    }),
    # Label maps.
    ('data.image_size', {
        'data.total_batch': 4,
        'data.crop_size': (128, 128),
        'data.image_size': (192, 160),
        'schedules': {'mini': dict(iterations=450, milestones=[320, 410])},
    }),
    # A share of the images.
    ('schedules.10%', {'schedules': {'10%': dict(iterations=200, milestones=[130, 175], share=10)}}),
    # Image level.
    ('data.source=imagenet', {'data.resize': 54, 'data.crop': 48}),
    ('data.source=voc07_labels', {'data.resize': 110, 'data.squeeze': 96}),
    ('knn', {'knn.k': 20}),
    ('classifier', {
        'data.total_batch': 32,
        'optimizer.lr': 0.01,
        'schedules': {'mini': dict(epochs=5, milestones=[3, 4])},
    }),
]
