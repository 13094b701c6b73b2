"""Images the package draws itself; a laptop CPU, minutes. Checks the pipeline: its scores are not science."""
arch = "resnet18"
# Dotted changes to configs/pretrain/<method>.py. Sizes and counts shrink; the structure does not.
schedule = dict(epochs=4, batch=32, policy="cosine")
contrastive = {
    "method.arch": arch,
    "method.global_view": dict(size=48, area=(0.2, 1.0), blur_sigma=(0.1, 0.5)),
    "method.bank_size": 256,  # eight steps' keys: in a run of hundreds, older ones are told apart by their age alone
    "schedule": schedule,
}
pretrain = dict(
    detco=contrastive | {
        "method.local_view": dict(size=54, area=(0.6, 1.0), grid=3, patch=14, blur_sigma=(0.1, 0.5)),
        "optimizer.lr": 0.01,  # a sixth of MoCo v2's: twelve terms make the loss 6.6 times as large
    },
    moco_v2=contrastive | {"optimizer.lr": 0.06},
    supervised={
        "method.arch": arch,
        "method.global_view": dict(size=48, area=(0.2, 1.0), jitter_p=0.0, grey_p=0.0, blur_p=0.0),
        "optimizer.lr": 0.01,
        "schedule": schedule,
    },
    random_init={"method.arch": arch},
)
# Dotted changes to configs/tasks/<task>.py.
tasks = dict(
    coco_maskrcnn_c4={
        "data.short_sides": [144, 152, 160, 168, 176],
        "data.max_side": 224,
        "data.test_short_side": 160,
        "data.test_max_side": 224,
        "data.total_batch": 2,
        "model.rpn_head.anchor_generator.scales": [1, 2, 4, 6, 8],
        "model.train_cfg.rpn.sampler.num": 64,
        "model.train_cfg.rpn_proposal.nms_pre": 500,
        "model.train_cfg.rpn_proposal.max_per_img": 100,
        "model.train_cfg.rcnn.sampler.num": 32,
        # An object covers two to six cells of C4: 8 x 8 samples a RoI are plenty, 4 x 4 after res5.
        "model.roi_head.bbox_roi_extractor.roi_layer.output_size": 8,
        "model.roi_head.bbox_head.roi_feat_size": 4,
        "model.train_cfg.rcnn.mask_size": 8,
        "model.test_cfg.rpn.nms_pre": 500,
        "model.test_cfg.rpn.max_per_img": 20,
        "model.test_cfg.rcnn.max_per_img": 10,  # res5 runs once more on each detection, for its mask
        "schedules": {"mini": dict(iterations=200, milestones=[130, 175])},
        "warmup.iterations": 20,
        "optimizer.optimizer.lr": 0.01,
        "precise_bn.iterations": 10,
    },
)
