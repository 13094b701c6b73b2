"""DetCo at the paper's scale (arXiv 2102.04803, sections 3 and 4.1); where it is silent, MoCo v2's values."""
method = dict(
    type="detco.detco:DetCo",
    arch="resnet50",
    global_view=dict(size=224, area=(0.2, 1.0), blur_sigma=(0.1, 2.0)),
    # Jitter, grey and blur of patches are the global view's: the paper names none of its own. One public attempt takes
    # a hue of 0.4, and others one draw of offsets or colours an image: fields of detco.views.View.
    local_view=dict(size=255, area=(0.6, 1.0), grid=3, patch=64, jitter=(0.4, 0.4, 0.4, 0.1), blur_sigma=(0.1, 2.0),
                    offsets="patch", photometric="patch"),
    local_hidden=1,
    weights=(0.1, 0.4, 0.7, 1.0),
    terms=("g2g", "l2l", "g2l"),
    dim=128,
    bank_size=65536,
    temperature=0.2,
    momentum=0.999,
    permute=False,  # PIRL does, DetCo does not say that it does
    batch_norm="shuffle",
    statistics="trained",
    bn_splits=8,  # virtual ranks, as many as the GPUs of the published runs; processes share them out
)
optimizer = dict(lr=0.03, momentum=0.9, weight_decay=1e-4)  # MoCo v2
schedule = dict(epochs=200, batch=256, policy="cosine")  # MoCo v2
amp = True  # networks in bfloat16 on CUDA; the loss stays float32
workers = 12
max_broken = 0.02  # of the images, that may fail to decode
monitor = None  # or dict(knn_every=epochs, resize=pixels, crop=pixels): k-NN by level on the way

scales = dict(
    # A third of MoCo v2's rate: twelve terms make the loss 6.6 times as large. Over 500 steps DetCo learns more with a
    # quicker momentum encoder (C4's bbox AP 13.1 against 11.9), MoCo v2 less (11.0 against 14.4).
    mini={"optimizer.lr": 0.02, "method.momentum": 0.99},
    small={"optimizer.lr": 0.012},  # by pilots (docs/pilots.md)
)
