"""What the steps that only Vertex AI has do in a pod."""
