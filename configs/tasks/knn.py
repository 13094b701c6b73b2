"""Weighted k-NN on frozen, pooled C5: ImageNet's training images vote on its validation images, top-1."""
task = dict(
    name='knn', version=1, kind='knn', main_metric='top1', metrics=['top1'],
    source="Wu et al. (arXiv 1805.01978), section 3.4: votes weigh exp(similarity / temperature), k is 200, the "
           "temperature 0.07; pooled features of the backbone as in DINO's (arXiv 2104.14294) eval_knn.py. DetCo "
           "reports none",
    differences=[
        "Images are shrunk by an antialiased bilinear filter, as for Wu et al. and MoCo; DINO's script takes a bicubic "
        "one.",
        "Wu et al. let their 128 projected numbers vote; DINO and this task the backbone's pooled ones. Figures of the "
        "former cannot be compared."])
data = dict(source='imagenet', resize=256, crop=224)
knn = dict(k=200, temperature=0.07)
