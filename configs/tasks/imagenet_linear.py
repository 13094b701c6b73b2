"""Linear classifier on frozen, pooled C5: 100 epochs of ImageNet, top-1 and top-5."""
# Version 2: crops of pools in memory are antialiased as torchvision's; the best epoch's top-1 stands beside the last's.
task = dict(
    name='imagenet_linear', version=2, kind='linear', main_metric='top1', metrics=['top1', 'top5', 'top1_best'],
    source="DetCo (arXiv 2102.04803), Table 8, column ImageNet; MoCo (arXiv 1911.05722), section 4.1 and Table 1, by "
           "its main_lincls.py, with which OpenSelfSup's r50_last.py, of DetCo's code base, agrees in every number",
    differences=[
        "The published figures are those of the best epoch by these same validation images, as main_lincls.py keeps "
        "and OpenSelfSup's model zoo reports: compare them with top1_best. The last epoch's is the main metric here.",
        "The last batch of an epoch is filled up from the next one, where the published runs take a smaller one: 1 of "
        "5,005 batches."])
data = dict(source='imagenet', total_batch=256, resize=256, crop=224)
# torchvision's RandomResizedCrop(crop) with its default area, and RandomHorizontalFlip; no other augmentation.
view = dict(area=(0.08, 1.0), flip_p=0.5, jitter_p=0.0, grey_p=0.0, blur_p=0.0)
classifier = dict(std=0.01)  # of the initial weights; biases start at 0
optimizer = dict(lr=30.0, momentum=0.9, weight_decay=0.0)
schedules = {'100ep': dict(epochs=100, milestones=[60, 80])}  # the rate falls to a tenth at each milestone
