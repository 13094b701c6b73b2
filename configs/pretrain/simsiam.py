"""SimSiam at its paper's scale (arXiv 2011.10566, section 4, appendix A): 100 epochs of ImageNet."""
method = dict(
    type="baselines.simsiam:SimSiam",
    arch="resnet50",
    global_view=dict(size=224, area=(0.2, 1.0), blur_sigma=(0.1, 2.0)),  # MoCo v2's augmentation
    dim=2048,
    hidden=512,
    fixed_predictor=True,
    statistics="trained",
)
optimizer = dict(lr=0.1, momentum=0.9, weight_decay=1e-4)  # 0.05 times the batch over 256
schedule = dict(epochs=100, batch=512, policy="cosine")
amp = True  # networks in bfloat16 on CUDA; the loss stays float32
workers = 12
max_broken = 0.02  # of the images, that may fail to decode
monitor = None  # or dict(knn_every=epochs, resize=pixels, crop=pixels): k-NN by level on the way

scales = dict(  # the same rule for the scale's batch would be 0.006 and 0.025: slow over so few steps
    mini={"optimizer.lr": 0.03, "method.dim": 512, "method.hidden": 128},
    small={"optimizer.lr": 0.05, "method.dim": 512, "method.hidden": 128, "optimizer.weight_decay": 5e-4,
           "method.statistics": "global"},
)
