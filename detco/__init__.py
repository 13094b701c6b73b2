"""DetCo (arXiv 2102.04803): the pretraining interface, its engine and the method itself."""
