"""MoCo v2 at the paper's scale (arXiv 2003.04297): 200 epochs of ImageNet."""
method = dict(
    type="baselines.moco_v2:MoCoV2",
    arch="resnet50",
    global_view=dict(size=224, area=(0.2, 1.0), blur_sigma=(0.1, 2.0)),
    dim=128,
    bank_size=65536,
    temperature=0.2,
    momentum=0.999,
    statistics="trained",
    bn_splits=8,  # virtual ranks, as many as the GPUs of the published runs; processes share them out
)
optimizer = dict(lr=0.03, momentum=0.9, weight_decay=1e-4)
schedule = dict(epochs=200, batch=256, policy="cosine")
amp = True  # networks in bfloat16 on CUDA; the loss stays float32
workers = 12
max_broken = 0.02  # of the images, that may fail to decode
monitor = None  # or dict(knn_every=epochs, resize=pixels, crop=pixels): k-NN by level on the way

scales = dict(
    mini={"optimizer.lr": 0.06},
)
