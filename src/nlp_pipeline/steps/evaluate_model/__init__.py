"""`evaluate_model`: what a model says of rows it has not seen, in figures and as a report."""
