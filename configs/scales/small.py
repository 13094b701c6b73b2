"""Real photos: pretrains on Imagenette at 128 pixels, transfers to COCO photos of people at 256; one GPU."""
data = 'small'  # whose data it takes (benchmarks.data.sources)
arch = 'resnet18'

# Rules (condition, dotted changes) of detco.config.fitting: sizes go by kind of part, whatever method or task has it.
pretrain = [
    ('', {
        'method.arch': arch,
        'method.global_view.size': 96,
        'method.global_view.blur_sigma': (0.1, 0.9),  # in proportion to the size: 2 pixels at 224
        'method.local_view.size': 108,
        'method.local_view.patch': 27,
        'method.local_view.blur_sigma': (0.1, 0.9),
    }),
    ('method.bank_size', {
        'method.bank_size': 4096,  # less than half of the pool of 9,469
        'method.momentum': 0.99,  # as lightly's CIFAR and Imagenette benchmarks, batch 256
        'optimizer.weight_decay': 5e-4,
    }),
    ('optimizer', {'schedule': dict(epochs=200, batch=256, policy='cosine')}),
]

tasks = [
    # Every detector.
    ('model', {
        'data.short_sides': [224, 240, 256, 272, 288],
        'data.max_side': 448,
        'data.test_short_side': 256,
        'data.test_max_side': 448,
        'data.total_batch': 8,
        'schedules': {'small': dict(iterations=600, milestones=[450, 550])},
        'warmup.iterations': 50,
        'optimizer.optimizer.lr': 0.01,
        'precise_bn.iterations': 100,
    }),
    # C4: res5 on each RoI.
    ('model.roi_head.shared_head', {
        'model.rpn_head.anchor_generator.scales': [1, 2, 4, 8, 16],
        'model.train_cfg.rpn_proposal.nms_pre': 2000,
        'model.train_cfg.rpn_proposal.max_per_img': 500,
        'model.train_cfg.rcnn.sampler.num': 64,
        'model.test_cfg.rpn.nms_pre': 2000,
        'model.test_cfg.rpn.max_per_img': 200,
    }),
    # R-CNN with FPN.
    ('model.neck and model.rpn_head.anchor_generator', {
        'model.rpn_head.anchor_generator.scales': [4],  # 16 to 256 pixels
        'model.train_cfg.rcnn.sampler.num': 128,
    }),
    # One stage: a dense head on every level.
    ('model.bbox_head', {'model.bbox_head.anchor_generator.octave_base_scale': 2, 'optimizer.optimizer.lr': 0.005}),
    # Learnt proposals, refined stage by stage.
    ('model.rpn_head.num_proposals', {
        'data.crop_sides': [192, 224, 256],
        'data.crop_size': (160, 224),
        'model.rpn_head.num_proposals': 100,
        'model.test_cfg.rcnn.max_per_img': 100,
        'optimizer.optimizer.lr': 1e-4,
    }),
    # A share of the images.
    ('schedules.10%', {'schedules': {
        f'{share}%': dict(iterations=400, milestones=[300, 370], share=share) for share in (10, 5)}}),
    # Image level.
    ('data.source=imagenet', {'data.resize': 128, 'data.crop': 112}),
    ('knn', {'knn.k': 20}),
    ('classifier', {'optimizer.lr': 0.1, 'schedules': {'small': dict(epochs=30, milestones=[18, 24])}}),
]
