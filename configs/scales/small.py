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
sizes = {
    "data.short_sides": [224, 240, 256, 272, 288],
    "data.max_side": 448,
    "data.test_short_side": 256,
    "data.test_max_side": 448,
    "data.total_batch": 8,
}
training = {
    "schedules": {"small": dict(iterations=600, milestones=[450, 550])},
    "warmup.iterations": 50,
    "optimizer.optimizer.lr": 0.01,
    "precise_bn.iterations": 100,
}
shares = {"schedules": {f"{share}%": dict(iterations=400, milestones=[300, 370], share=share) for share in (10, 5)}}
c4 = sizes | training | {
    "model.rpn_head.anchor_generator.scales": [1, 2, 4, 8, 16],
    "model.train_cfg.rpn_proposal.nms_pre": 2000,
    "model.train_cfg.rpn_proposal.max_per_img": 500,
    "model.train_cfg.rcnn.sampler.num": 64,
    "model.test_cfg.rpn.nms_pre": 2000,
    "model.test_cfg.rpn.max_per_img": 200,
}
fpn = sizes | training | {
    "model.rpn_head.anchor_generator.scales": [4],  # 16 to 256 pixels
    "model.train_cfg.rcnn.sampler.num": 128,
}
retinanet = sizes | training | {
    "model.bbox_head.anchor_generator.octave_base_scale": 2,
    "optimizer.optimizer.lr": 0.005,
}
tasks = dict(
    coco_maskrcnn_c4=c4,
    coco_maskrcnn_fpn=fpn,
    coco_maskrcnn_fpn_4conv1fc=fpn,
    coco_retinanet_fpn=retinanet,
    coco_keypointrcnn_fpn=fpn,
    coco_sparsercnn=sizes | training | {
        "data.crop_sides": [192, 224, 256],
        "data.crop_size": (160, 224),
        "model.rpn_head.num_proposals": 100,
        "model.test_cfg.rcnn.max_per_img": 100,
        "optimizer.optimizer.lr": 1e-4,
    },
    voc_fasterrcnn_c4=c4,
    coco_semisup_maskrcnn_fpn=fpn | shares,
    coco_semisup_retinanet_fpn=retinanet | shares,
    imagenet_linear={
        "data.resize": 128,
        "data.crop": 112,
        "optimizer.lr": 0.1,
        "schedules": {"small": dict(epochs=30, milestones=[18, 24])},
    },
    knn={"data.resize": 128, "data.crop": 112, "knn.k": 20},
    voc07_svm={},
)
