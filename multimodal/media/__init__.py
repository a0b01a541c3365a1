"""Pictures and recordings of people: read with bounds, normalised, and kept by their SHA-256."""
