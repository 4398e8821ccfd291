"""The model as every server runs it, the servers, what boots them, and what asks them."""
