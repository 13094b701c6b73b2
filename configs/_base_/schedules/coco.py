# COCO's schedules.
_base_ = ['./sgd.py']

schedules = {
    '12k': dict(iterations=12000, milestones=[9000, 11000]),
    '1x': dict(iterations=90000, milestones=[60000, 80000]),
    '2x': dict(iterations=180000, milestones=[120000, 160000]),
}
