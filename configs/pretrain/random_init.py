"""No pretraining."""
method = dict(type="baselines.random_init:RandomInit", arch="resnet50")
schedule = dict(epochs=0, batch=256)
