"""The pipeline as Kubeflow Pipelines knows it: the only rooms that know `kfp.dsl`."""
