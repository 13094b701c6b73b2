"""The rows DetCo is compared with, under the same pretraining interface."""
