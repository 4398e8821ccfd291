"""What the command line does on Kubeflow Pipelines."""
