"""The training on several nodes, by a TrainJob of Kubeflow Trainer.

It runs where the package is installed, in an image: no module that travels in the compiled file imports it.
"""
