"""What the command line does on Vertex AI, through Google's own client libraries."""
