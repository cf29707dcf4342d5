"""Maps on latents and frames, imported as `elevator.filters`."""

if __name__ != "elevator.filters":
    raise ImportError("this folder is the package elevator.filters; import it under that name")

from elevator.filters.clamp import Clamp as Clamp
from elevator.filters.clamp import DynamicThreshold as DynamicThreshold
from elevator.filters.lowpass import LowPass as LowPass

__all__ = ["Clamp", "DynamicThreshold", "LowPass"]
