"""What models take, computed from their cards before anything is loaded, and whether it fits."""
