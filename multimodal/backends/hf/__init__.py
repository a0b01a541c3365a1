"""Text and vision models on transformers, which share one way to generate."""
