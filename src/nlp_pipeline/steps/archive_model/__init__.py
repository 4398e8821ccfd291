"""`archive_model`: a model as a TorchServe archive and a Hugging Face folder, published as a release."""
