"""Where models live: a real card, a simulated one, and how weights get there and back."""
