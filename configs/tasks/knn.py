"""Weighted k-NN on frozen, pooled C5: ImageNet's training images vote on its validation images, top-1."""
task = dict(
    name='knn', version=1, kind='knn', main_metric='top1', metrics=['top1'],
    source="Wu et al. (arXiv 1805.01978), section 3.4; DINO (arXiv 2104.14294), eval_knn.py")
data = dict(source='imagenet', resize=256, crop=224)
knn = dict(k=200, temperature=0.07)
