# What all schedules share: linear warm-up, step decay, precise BN before each evaluation.
lr_decay = 0.1
warmup = dict(iterations=1000, start_factor=0.001)
precise_bn = dict(iterations=200)
