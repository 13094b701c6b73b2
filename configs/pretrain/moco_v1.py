"""MoCo v1 at its paper's scale (arXiv 1911.05722, section 4): 200 epochs of ImageNet."""
method = dict(
    type="baselines.moco_v2:MoCoV2",
    arch="resnet50",
    # Section 3.3. Every image is jittered, as in the authors' code, which greys a fifth of them before and not after.
    global_view=dict(size=224, area=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0, grey_p=0.2, blur_p=0.0),
    dim=128,
    bank_size=65536,
    temperature=0.07,
    momentum=0.999,
    statistics="trained",
    bn_splits=8,  # virtual ranks, as many as the GPUs of the published runs; processes share them out
    head="linear",
)
optimizer = dict(lr=0.03, momentum=0.9, weight_decay=1e-4)
schedule = dict(epochs=200, batch=256, policy="step", milestones=(120, 160))
amp = True  # networks in bfloat16 on CUDA; the loss stays float32
workers = 12
max_broken = 0.02  # of the images, that may fail to decode
monitor = None  # or dict(knn_every=epochs, resize=pixels, crop=pixels): k-NN by level on the way

scales = dict(
    mini={"optimizer.lr": 0.06},  # MoCo v2's
    small={"method.temperature": 0.07},  # v1's own, not the scale's
    one_gpu={"schedule.milestones": (12, 16)},
)
