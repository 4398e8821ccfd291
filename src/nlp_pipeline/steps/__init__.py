"""What runs in the pods: plain functions of paths and values, which know nothing of kfp."""
