# FCN on Cityscapes' 19 semantic classes, stride 16: MoCo's protocol (arXiv 1911.05722, appendix).
_base_ = ['../_base_/models/semantic_fcn.py', '../_base_/data/cityscapes_semantic.py', '../_base_/schedules/sgd.py']

task = dict(
    name='cityscapes_semseg_fcn', version=1, main_metric='mIoU', metrics=['mIoU'],
    source='DetCo table 8; MoCo appendix, semantic segmentation')

schedules = {'90k': dict(iterations=90000, milestones=[63000, 81000])}
optimizer = dict(optimizer=dict(lr=0.01))
