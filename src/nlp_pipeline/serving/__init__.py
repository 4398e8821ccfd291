"""What goes into the archive, what boots TorchServe, and what asks it."""
