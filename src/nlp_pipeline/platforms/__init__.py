"""What the platforms that run the pipeline share: their verbs, and what these show. Neither knows the other."""
