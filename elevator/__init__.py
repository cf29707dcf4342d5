"""Training-free sampling-step hooks that lift the quality of diffusion video."""

__version__ = "0.1.0"
