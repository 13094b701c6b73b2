"""ImageNet to COCO, VOC and Cityscapes in full; ResNet-50, eight GPUs. Every config as written."""
data = 'paper'  # whose data it takes (benchmarks.data.sources)
arch = 'resnet50'
pretrain = []
tasks = []
