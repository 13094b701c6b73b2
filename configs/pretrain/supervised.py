"""Supervised pretraining at the paper's scale: torchvision's recipe for ResNet-50, 90 epochs of ImageNet."""
method = dict(
    type="baselines.supervised:Supervised",
    arch="resnet50",
    global_view=dict(size=224, area=(0.08, 1.0), jitter_p=0.0, grey_p=0.0, blur_p=0.0),
)
optimizer = dict(lr=0.1, momentum=0.9, weight_decay=1e-4)
schedule = dict(epochs=90, batch=256, policy="step", milestones=(30, 60))
amp = True  # networks in bfloat16 on CUDA; the loss stays float32
workers = 12
max_broken = 0.02  # of the images, that may fail to decode
monitor = None  # or dict(knn_every=epochs, resize=pixels, crop=pixels): k-NN by level on the way

scales = dict(
    mini={"method.global_view.area": (0.2, 1.0), "optimizer.lr": 0.01},
    small={"method.global_view.area": (0.2, 1.0)},
)
