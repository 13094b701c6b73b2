"""SwAV by its authors' recipe for batches of 256, with a queue (arXiv 2006.09882, table 3): 200 epochs of ImageNet."""
_colours = dict(jitter=(0.8, 0.8, 0.8, 0.2), blur_sigma=(0.1, 2.0))  # SimCLR's, at full strength
method = dict(
    type="baselines.swav:SwAV",
    arch="resnet50",
    global_view=dict(size=224, area=(0.14, 1.0), **_colours),
    small_view=dict(size=96, area=(0.05, 0.14), **_colours),
    small_views=6,
    dim=128,
    hidden=2048,
    prototypes=3000,
    temperature=0.1,
    epsilon=0.05,
    iterations=3,
    bank_size=3840,
    bank_from=0.075,  # of the run: 15 epochs
    frozen=0.005,  # one epoch
    statistics="trained",
)
optimizer = dict(type="detco.lars:LARS", lr=0.6, momentum=0.9, weight_decay=1e-6)
schedule = dict(epochs=200, batch=256, policy="cosine")  # to zero; the authors' ends at a thousandth of the rate
amp = True  # networks in bfloat16 on CUDA; the loss stays float32
workers = 12
max_broken = 0.02  # of the images, that may fail to decode
monitor = None  # or dict(knn_every=epochs, resize=pixels, crop=pixels): k-NN by level on the way

# Fewer prototypes than dimensions can all be evaded at once, and do. What keeps features apart in a short run is what
# the authors name: an epsilon of 0.03, and views that are not as hard to tell.
_short = {"optimizer.lr": 1.0, "method.epsilon": 0.03, "method.dim": 32, "method.hidden": 512}
scales = dict(
    mini=_short | {
        "method.prototypes": 64, "method.frozen": 0.1, "method.bank_from": 0.1, "method.small_view.area": (0.14, 0.4),
        "method.global_view.jitter": (0.4, 0.4, 0.4, 0.1), "method.small_view.jitter": (0.4, 0.4, 0.4, 0.1)},
    small=_short | {
        "method.prototypes": 128, "method.frozen": 0.05, "method.bank_from": 0.05, "optimizer.weight_decay": 1e-6},
)
