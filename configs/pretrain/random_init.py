"""No pretraining."""
method = dict(type="random_init", arch="resnet50")
schedule = dict(epochs=0, batch=256)
