"""`train_model`: fine-tunes an encoder on labelled rows."""
