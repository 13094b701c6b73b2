# SGD without weight decay on normalisation layers.
_base_ = ['./steps.py']

optimizer = dict(
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4), paramwise_cfg=dict(norm_decay_mult=0.))
