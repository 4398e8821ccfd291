"""From a release to a live InferenceService that has been asked: for the step `deploy_model` and the command line."""
