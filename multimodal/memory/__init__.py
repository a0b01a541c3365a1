"""One budget for all models: who is on the device, who comes and goes, and the proof beforehand."""
