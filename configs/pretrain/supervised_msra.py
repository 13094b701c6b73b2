"""MSRA's ResNet-50, the supervised row of the papers on detection; its weights are detectron2's R-50.pkl."""
method = dict(type="baselines.supervised_msra:SupervisedMSRA", file="R-50.pkl")
schedule = dict(epochs=0, batch=256)
arch = "resnet50"  # of the file, whatever the scale
