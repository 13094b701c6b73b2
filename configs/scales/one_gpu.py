"""ImageNet to COCO, VOC and Cityscapes at the paper's sizes; ResNet-50, a tenth of the schedules, one GPU and a day.

A tenth of the steps on all images, not all steps on a tenth of the images: the bank's 65,536 keys are the last 0.51
epochs of 128,117 images, so that for one query in eight its own image's key of the epoch before would be a negative; of
all images, 0.05 epochs and one query in 760, as in the paper. 20 epochs are 100,092 steps of 256: a momentum of 0.999,
which averages over 1,000 steps, and a bank of 256 are short against the run, and stay the paper's.

Rates stay where batches stay: they go in proportion to the batch (Goyal et al., arXiv 1706.02677; MoCo's README: 0.015
for 128). One GPU takes the batch of 256 that eight shared, and `bn_splits` 8 normalises it by 32 as they did.
`--accumulation 2` or 4 fits it into less memory; the splits are shared out among the parts.

Hours: not measured yet (`--dry-run --measure` does, here). MoCo's README has 53 hours of eight V100 for 200 epochs, so
42 of one for 20 epochs of MoCo v2, and 1.73 times as much for DetCo by pixels; bfloat16 on later GPUs is several times
as fast.
"""
data = 'paper'  # whose data it takes (benchmarks.data.sources)
arch = 'resnet50'

# Rules (condition, dotted changes) of detco.config.fitting.
pretrain = [
    # A tenth of the epochs; steps of the rate where they were.
    ('schedule.epochs=200', {'schedule.epochs': 20}),
    ('schedule.epochs=100', {'schedule.epochs': 10}),
    ('schedule.epochs=90', {'schedule.epochs': 9, 'schedule.milestones': (3, 6)}),
    # SimSiam: 512 images with gradients in both views are no batch of one GPU; half of it at half the rate, as its
    # paper scales it (arXiv 2011.10566, section 4: 0.05 times the batch over 256).
    ('schedule.batch=512 and optimizer.lr=0.1', {'schedule.batch': 256, 'optimizer.lr': 0.05}),
]

tasks = [
    # The total batch of 16 stays, and with it the rate, warm-up and precise BN; `--max-per-process 4` fits it into less
    # memory. COCO: the paper's own short schedule, 12k (its Table 3), for every detector that has 1x or 2x.
    ('schedules.1x', {'schedules': {'12k': dict(iterations=12000, milestones=[9000, 11000])}}),
    # Elsewhere a tenth, steps where they were; a quarter of those that are 24k.
    ('schedules.3x', {'schedules': {'27k': dict(iterations=27000, milestones=[21000, 25000])}}),
    ('schedules.24k', {'schedules': {'6k': dict(iterations=6000, milestones=[4500])}}),
    ('data.source=voc', {'schedules': {'6k': dict(iterations=6000, milestones=[4500, 5500])}}),
    ('schedules.90k', {'schedules': {'9k': dict(iterations=9000, milestones=[6300, 8100])}}),
    ('schedules.100ep', {'schedules': {'10ep': dict(epochs=10, milestones=[6, 8])}}),
]
