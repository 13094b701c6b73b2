"""Linear classifier on frozen, pooled C5: 100 epochs of ImageNet, top-1 and top-5."""
task = dict(
    name='imagenet_linear', version=1, kind='linear', main_metric='top1', metrics=['top1', 'top5'],
    source="MoCo (arXiv 1911.05722), section 4.1 and main_lincls.py; DetCo (arXiv 2102.04803), Table 8")
data = dict(source='imagenet', total_batch=256, resize=256, crop=224)
# torchvision's RandomResizedCrop(crop) with its default area, and RandomHorizontalFlip; no other augmentation.
view = dict(area=(0.08, 1.0), flip_p=0.5, jitter_p=0.0, grey_p=0.0, blur_p=0.0)
classifier = dict(std=0.01)  # of the initial weights; biases start at 0
optimizer = dict(lr=30.0, momentum=0.9, weight_decay=0.0)
schedules = {'100ep': dict(epochs=100, milestones=[60, 80])}  # the rate falls to a tenth at each milestone
