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
sizes = {
    "data.short_sides": [144, 152, 160, 168, 176],
    "data.max_side": 224,
    "data.test_short_side": 160,
    "data.test_max_side": 224,
    "data.total_batch": 2,
}
training = {
    "schedules": {"mini": dict(iterations=200, milestones=[130, 175])},
    "warmup.iterations": 20,
    "optimizer.optimizer.lr": 0.01,
    "precise_bn.iterations": 10,
}
share = {"schedules": {"10%": dict(iterations=200, milestones=[130, 175], share=10)}}
proposals = {
    "model.train_cfg.rpn.sampler.num": 64,
    "model.train_cfg.rpn_proposal.nms_pre": 500,
    "model.train_cfg.rpn_proposal.max_per_img": 100,
    "model.train_cfg.rcnn.sampler.num": 32,
}
c4 = sizes | training | proposals | {
    "model.rpn_head.anchor_generator.scales": [1, 2, 4, 6, 8],
    # An object covers two to six cells of C4: 8 x 8 samples a RoI are plenty, 4 x 4 after res5.
    "model.roi_head.bbox_roi_extractor.roi_layer.output_size": 8,
    "model.roi_head.bbox_head.roi_feat_size": 4,
    "model.test_cfg.rpn.nms_pre": 500,
    "model.test_cfg.rpn.max_per_img": 20,
}
fpn = sizes | training | proposals | {
    "model.neck.out_channels": 64,
    "model.rpn_head.in_channels": 64,
    "model.rpn_head.feat_channels": 64,
    "model.roi_head.bbox_roi_extractor.out_channels": 64,
    "model.roi_head.bbox_head.in_channels": 64,
    "model.roi_head.bbox_head.fc_out_channels": 256,
    "model.test_cfg.rpn.nms_pre": 200,
    "model.test_cfg.rpn.max_per_img": 50,
    "model.test_cfg.rcnn.max_per_img": 20,
    "optimizer.optimizer.lr": 0.02,
}
# The heads' own convolutions start faint: at their full number or at 64 channels, hundreds of steps draw no mask.
mask_fpn = fpn | {
    "model.roi_head.mask_roi_extractor.out_channels": 64,
    "model.roi_head.mask_head.in_channels": 64,
    "model.roi_head.mask_head.conv_out_channels": 128,
    "model.roi_head.mask_head.num_convs": 2,
}
retinanet = sizes | training | {
    "model.neck.out_channels": 64,
    "model.bbox_head.in_channels": 64,
    "model.bbox_head.feat_channels": 64,
    "model.bbox_head.stacked_convs": 1,  # four start so faint that hundreds of steps pass before they speak
    "model.test_cfg.nms_pre": 200,
    "model.test_cfg.max_per_img": 20,
    "schedules": {"mini": dict(iterations=300, milestones=[200, 265])},
}
sparse = sizes | training | {
    "data.crop_sides": [120, 136, 152],
    "data.crop_size": (100, 136),
    "model.neck.out_channels": 64,
    "model.rpn_head.num_proposals": 20,
    "model.rpn_head.proposal_feature_channel": 64,
    "model.roi_head.proposal_feature_channel": 64,
    "model.roi_head.bbox_roi_extractor.out_channels": 64,
    "model.test_cfg.rcnn.max_per_img": 20,
    "schedules": {"mini": dict(iterations=450, milestones=[320, 410])},
    "optimizer.optimizer.lr": 2e-4,
} | {f"model.roi_head.bbox_head.{stage}.{key}": value for stage in range(6) for key, value in (
    ("in_channels", 64), ("dynamic_conv_cfg.in_channels", 64), ("dynamic_conv_cfg.out_channels", 64),
    ("feedforward_channels", 256))}
tasks = dict(
    coco_maskrcnn_c4=c4 | {
        "model.train_cfg.rcnn.mask_size": 8,
        "model.test_cfg.rcnn.max_per_img": 10,  # res5 runs once more on each detection, for its mask
    },
    coco_maskrcnn_fpn=mask_fpn,
    coco_maskrcnn_fpn_4conv1fc=mask_fpn | {"model.roi_head.bbox_head.conv_out_channels": 64},
    coco_retinanet_fpn=retinanet,
    coco_keypointrcnn_fpn=fpn | {
        "model.roi_head.keypoint_roi_extractor.out_channels": 64,
        "model.roi_head.keypoint_head.in_channels": 64,
        "model.roi_head.keypoint_head.channels": 128,
        "model.roi_head.keypoint_head.num_convs": 2,  # without norms, eight learn nothing in hundreds of steps
        "schedules": {"mini": dict(iterations=250, milestones=[170, 225])},
    },
    coco_sparsercnn=sparse,
    voc_fasterrcnn_c4=c4,
    cityscapes_maskrcnn_fpn=mask_fpn,
    cityscapes_semseg_fcn=training | {
        "data.total_batch": 4,
        "data.crop_size": (128, 128),
        "data.image_size": (192, 160),
        "schedules": {"mini": dict(iterations=450, milestones=[320, 410])},
    },
    coco_semisup_maskrcnn_fpn=mask_fpn | share,
    coco_semisup_retinanet_fpn=retinanet | share,
    imagenet_linear={
        "data.resize": 54,
        "data.crop": 48,
        "data.total_batch": 32,
        "optimizer.lr": 0.01,
        "schedules": {"mini": dict(epochs=5, milestones=[3, 4])},
    },
    knn={"data.resize": 54, "data.crop": 48, "knn.k": 20},
    voc07_svm={"data.resize": 110, "data.crop": 96},
)
