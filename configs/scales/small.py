"""Real photos: pretrains on Imagenette at 128 pixels, transfers to COCO photos of people at 256; one GPU."""
arch = "resnet18"
views = dict(area=(0.2, 1.0), blur_sigma=(0.1, 0.9))  # blur in proportion to the size: 2 pixels at 224
contrastive = {
    "method.arch": arch,
    "method.global_view": dict(size=96, **views),
    "method.bank_size": 4096,  # less than half of the pool of 9,469
    "method.momentum": 0.99,
    "optimizer.lr": 0.06,  # lr and momentum as lightly's CIFAR and Imagenette benchmarks, batch 256
    "optimizer.weight_decay": 5e-4,
}
pretrain = dict(
    detco=contrastive | {
        "method.local_view": dict(size=108, area=(0.6, 1.0), grid=3, patch=27, blur_sigma=(0.1, 0.9)),
    },
    moco_v2=contrastive,
    supervised={
        "method.arch": arch,
        "method.global_view": dict(size=96, area=(0.2, 1.0), jitter_p=0.0, grey_p=0.0, blur_p=0.0),
        "schedule": dict(epochs=200, batch=256, policy="cosine"),
    },
    random_init={"method.arch": arch},
)
tasks = dict(
    coco_maskrcnn_c4={
        "data.short_sides": [224, 240, 256, 272, 288],
        "data.max_side": 448,
        "data.test_short_side": 256,
        "data.test_max_side": 448,
        "data.total_batch": 8,
        "model.rpn_head.anchor_generator.scales": [1, 2, 4, 8, 16],
        "model.train_cfg.rpn_proposal.nms_pre": 2000,
        "model.train_cfg.rpn_proposal.max_per_img": 500,
        "model.train_cfg.rcnn.sampler.num": 64,
        "model.test_cfg.rpn.nms_pre": 2000,
        "model.test_cfg.rpn.max_per_img": 200,
        "schedules": {"small": dict(iterations=600, milestones=[450, 550])},
        "warmup.iterations": 50,
        "optimizer.optimizer.lr": 0.01,
        "precise_bn.iterations": 100,
    },
)
