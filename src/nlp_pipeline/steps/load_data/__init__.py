"""`load_data`: labelled text from a file or URL to checked, split Parquet datasets."""
