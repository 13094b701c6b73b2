"""DetCo with automatic augmentation of every view before blur: DetCo_AA of the paper's tables (arXiv 2102.04803)."""
_base_ = ["./detco.py"]

# AutoAugment's ImageNet policy (arXiv 1805.09501), or "rand", RandAugment (arXiv 1909.13719): torchvision's, at their
# defaults. Which of them the published rows had is not known here.
method = dict(global_view=dict(auto_augment="imagenet"), local_view=dict(auto_augment="imagenet"))
