"""Sampling loops and re-noising rules, imported as `elevator.samplers`."""

if __name__ != "elevator.samplers":
    raise ImportError("this folder is the package elevator.samplers; import it under that name")

from elevator.samplers.ddim import DDIM as DDIM
from elevator.samplers.ddim import Solved as Solved
from elevator.samplers.ddim import Solver as Solver
from elevator.samplers.ddim import sample as sample
from elevator.samplers.freeinit import reinitialise as reinitialise
from elevator.samplers.inversion import DDIMInversion as DDIMInversion
from elevator.samplers.known import FreshKnown as FreshKnown
from elevator.samplers.known import Known as Known
from elevator.samplers.lcm import LCM as LCM
from elevator.samplers.mixed_noise import mixed_noise as mixed_noise
from elevator.samplers.rescheduled_noise import rescheduled_noise as rescheduled_noise
from elevator.samplers.sdedit import SDEdit as SDEdit
