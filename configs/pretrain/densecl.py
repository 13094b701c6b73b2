"""DenseCL at its paper's scale (arXiv 2011.09157, section 4.1): 200 epochs of ImageNet, MoCo v2's settings."""
method = dict(
    type="baselines.densecl:DenseCL",
    arch="resnet50",
    global_view=dict(size=224, area=(0.2, 1.0), blur_sigma=(0.1, 2.0)),  # MoCo v2's augmentation
    dim=128,
    bank_size=65536,  # of either bank
    temperature=0.2,
    momentum=0.999,
    dense_weight=0.5,  # section 3.3
    statistics="trained",
    bn_splits=8,  # virtual ranks, as many as the GPUs of the published runs; processes share them out
)
optimizer = dict(lr=0.03, momentum=0.9, weight_decay=1e-4)  # of ImageNet, in the authors' configs too
schedule = dict(epochs=200, batch=256, policy="cosine")
amp = True  # networks in bfloat16 on CUDA; the loss stays float32
workers = 12
max_broken = 0.02  # of the images, that may fail to decode
monitor = None  # or dict(knn_every=epochs, resize=pixels, crop=pixels): k-NN by level on the way

scales = dict(
    mini={"optimizer.lr": 0.06},  # MoCo v2's
)
