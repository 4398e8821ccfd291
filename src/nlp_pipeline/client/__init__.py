"""The client of Kubeflow Pipelines: sign-in, pipelines, runs, schedules."""
