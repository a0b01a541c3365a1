"""One budget for all models: who is on the device, who comes, who goes, and the proof beforehand."""
