"""Pictures described without a vision-language model."""
