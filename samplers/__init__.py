"""Sampling loops and re-noising rules, imported as `elevator.samplers`."""

if __name__ != "elevator.samplers":
    raise ImportError("this folder is the package elevator.samplers; import it under that name")
