"""Maps on latents and frames, imported as `elevator.filters`."""

if __name__ != "elevator.filters":
    raise ImportError("this folder is the package elevator.filters; import it under that name")

from elevator.filters.clamp import Clamp as Clamp
from elevator.filters.clamp import DynamicThreshold as DynamicThreshold
from elevator.filters.colour import adain as adain
from elevator.filters.colour import wavelet as wavelet
from elevator.filters.flow import DIS as DIS
from elevator.filters.flow import Flow as Flow
from elevator.filters.flow import FlowEstimator as FlowEstimator
from elevator.filters.keep_colours import KeepColours as KeepColours
from elevator.filters.keep_detail import KeepDetail as KeepDetail
from elevator.filters.lowpass import LowPass as LowPass
from elevator.filters.motion_average import MotionAverage as MotionAverage
from elevator.filters.motion_average import Pictures as Pictures
from elevator.filters.propagate import Propagate as Propagate
from elevator.filters.warp import consistent as consistent
from elevator.filters.warp import warp as warp

__all__ = [
    "DIS",
    "Clamp",
    "DynamicThreshold",
    "Flow",
    "FlowEstimator",
    "KeepColours",
    "KeepDetail",
    "LowPass",
    "MotionAverage",
    "Pictures",
    "Propagate",
    "adain",
    "consistent",
    "warp",
    "wavelet",
]
