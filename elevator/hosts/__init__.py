"""The seam with diffusers: schedulers, layouts and checkpoints."""
