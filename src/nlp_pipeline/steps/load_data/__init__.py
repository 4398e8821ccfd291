"""`load_data`: labelled text from files or URLs to checked, split Parquet datasets."""
