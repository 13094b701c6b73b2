"""BYOL at its paper's scale (arXiv 2006.07733, section 3.3): 1,000 epochs of ImageNet."""
method = dict(
    type="baselines.byol:BYOL",
    arch="resnet50",
    # Appendix B; crops there are resized bicubically.
    global_view=dict(size=224, area=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, grey_p=0.2,
                     blur_sigma=(0.1, 2.0)),
    blur_p=(1.0, 0.1),
    solarize_p=(0.0, 0.2),
    dim=256,
    hidden=4096,
    momentum=0.996,  # at the start; of 300 epochs 0.99, with a rate of 0.3 x 4096 / 256 and a decay of 1e-6
    statistics="trained",
)
# LARS is timm's: pip install -e ".[timm]". The rate is 0.2 times the batch over 256.
optimizer = dict(type="timm.optim:Lars", lr=3.2, momentum=0.9, weight_decay=1.5e-6, trust_coeff=0.001)
schedule = dict(epochs=1000, batch=4096, policy="cosine", warmup=10)
amp = True  # networks in bfloat16 on CUDA; the loss stays float32
workers = 12
max_broken = 0.02  # of the images, that may fail to decode
monitor = None  # or dict(knn_every=epochs, resize=pixels, crop=pixels): k-NN by level on the way

scales = dict(  # SGD: LARS is for batches of thousands
    mini={"optimizer": dict(lr=0.02, momentum=0.9, weight_decay=1e-4), "method.dim": 128, "method.hidden": 512,
          "method.momentum": 0.99},
    small={"optimizer": dict(lr=0.02, momentum=0.9, weight_decay=5e-4), "method.dim": 128, "method.hidden": 512,
           "method.momentum": 0.99},
    # A tenth of 300 epochs at their values; a batch of 256 at its rate (figure 3 (a) goes down to 256).
    one_gpu={"schedule.epochs": 30, "schedule.batch": 256, "schedule.warmup": 1, "optimizer.lr": 0.3,
             "optimizer.weight_decay": 1e-6, "method.momentum": 0.99},
)
