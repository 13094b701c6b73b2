# FCN on Cityscapes' 19 semantic classes, stride 16: MoCo's protocol (arXiv 1911.05722, appendix), which names no
# warm-up, no parameter without weight decay and no precise BN.
_base_ = ['../_base_/models/semantic_fcn.py', '../_base_/data/cityscapes_semantic.py']

task = dict(
    name='cityscapes_semseg_fcn', main_metric='mIoU', metrics=['mIoU'],
    version=2,  # 1 warmed up, spared norms the decay and had precise BN
    source='DetCo table 7; MoCo appendix, semantic segmentation',
    differences=[
        _base_._differences[1],
        'No code of this protocol is public. What the appendix leaves open is ours: momentum 0.9, initial weights of '
        'deviation 0.01 in the head, cross entropy at the size of the labels, running statistics as trained. Size: not '
        'known.'])

schedules = {'90k': dict(iterations=90000, milestones=[63000, 81000])}
lr_decay = 0.1
optimizer = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4))
