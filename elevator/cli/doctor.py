"""`elevator doctor`: what this machine has, and what each missing extra would bring."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from elevator.errors import CheckError

__all__ = ["require_device", "run"]

_NEEDED = (
    *("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors"),
    *("huggingface_hub", "numpy", "einops", "jaxtyping", "av", "pillow", "filelock"),
)
_EXTRAS = {
    "xformers": (
        "attention with less memory on NVIDIA GPUs, by "
        "pipe.enable_xformers_memory_efficient_attention()"
    ),
    "matplotlib": "the plots of `elevator zoo report`",
    "scipy": "the Fréchet distance of elevator.metrics",
}


def require_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        CheckError: this machine has none of that name.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # what torch raises, by backend
        raise CheckError(
            [f"there is no device {name!r} here; `elevator doctor` lists what there is"]
        ) from None
    return device


def run() -> int:
    """Print the report."""
    for line in _report():
        print(line)
    return 0


def _report() -> Iterator[str]:
    import elevator
    from elevator import zoo

    yield f"elevator        {elevator.__version__}"
    yield f"python          {platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in _NEEDED:
        yield f"{name:15} {_version(name) or 'missing: pip install ' + name}"
    yield ""
    yield f"cpu             {_cores()} cores, {torch.get_num_threads()} threads{_memory()}"
    yield from _gpus()
    yield f"mp4             {_h264()}"
    there = [name for name in zoo.names() if zoo.path(name).exists()]
    missing = [name for name in zoo.names() if name not in there]
    yield f"zoo             {', '.join(there) or 'no weights'}" + (
        f" (missing: {', '.join(missing)}; elevator zoo train NAME)" if missing else ""
    )
    yield ""
    for name, brings in _EXTRAS.items():
        found = _version(name)
        yield f"{name:15} {found or 'not installed'}"
        yield f"    {brings}" + ("" if found else f"; pip install {name}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return ""
    return f", {total / 2**30:.1f} GiB memory ({free / 2**30:.1f} free)"


def _gpus() -> Iterator[str]:
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield f"cuda:{index:<10} {name}, {total / 2**30:.1f} GiB ({free / 2**30:.1f} free)"
    if torch.cuda.device_count() == 0:
        built = torch.version.cuda
        why = "no GPU found" if built else "this torch is built for the CPU only"
        yield f"cuda            none: {why}"
    if torch.backends.mps.is_available():
        yield "mps             Apple GPU (not tried with elevator)"


def _h264() -> str:
    import av

    try:
        av.codec.Codec("libx264", "w")
    except ValueError:
        return "this PyAV cannot write H.264; pip install --force-reinstall av"
    return "H.264 by PyAV"
