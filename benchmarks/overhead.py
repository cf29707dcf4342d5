"""An attached hook that does nothing costs under 1 % of a step of the built-in T2I.

Times the scheduler's step with and without an attached nothing-hook, alternating, on the very
tensors the built-in T2I would hand over, and compares the difference with one guided network call.
"""

import statistics
import time
from collections.abc import Callable

import torch

import elevator as el
from benchmarks._measure import arguments, save
from elevator import zoo

FRAMES = 8
LIMIT = 0.01
"""Share of a step that an idle hook may cost."""


def main() -> None:
    """Measure, print and save."""
    options = arguments(__doc__ or "")
    repeats, calls = (20, 1) if options.tiny else (400, 9)
    pipe = zoo.load("t2i")
    pipe.scheduler.set_timesteps(50)
    generator = torch.Generator().manual_seed(options.seed)
    shape = (FRAMES, pipe.unet.config.in_channels, 16, 16)
    sample = torch.randn(shape, generator=generator)
    output = torch.randn(shape, generator=generator)
    text = torch.zeros(2 * FRAMES, 8, pipe.unet.config.cross_attention_dim)
    timestep = pipe.scheduler.timesteps[10]

    def step() -> None:
        pipe.scheduler.step(output, timestep, sample)

    def network() -> None:
        with torch.no_grad():
            pipe.unet(torch.cat([sample, sample]), timestep, encoder_hidden_states=text)

    plain, hooked = [], []
    for _ in range(repeats):
        plain.append(_seconds(step))
        with el.attach(pipe, el.identity(), frames=FRAMES):
            pipe.scheduler.set_timesteps(50)
            step()  # the first call of a run makes its state
            hooked.append(_seconds(step))
    whole = statistics.median(_seconds(network) for _ in range(calls))
    cost = statistics.median(hooked) - statistics.median(plain)
    share = cost / (whole + statistics.median(plain))
    print(f"scheduler step, plain        {1e6 * statistics.median(plain):10.0f} us")
    print(f"scheduler step, hooked       {1e6 * statistics.median(hooked):10.0f} us")
    print(f"guided network call          {1e6 * whole:10.0f} us ({FRAMES} frames, 64x64 pixels)")
    print(f"overhead of a step           {100 * share:10.2f} %")
    if not options.tiny:
        if share > LIMIT:
            raise SystemExit(f"an idle hook costs more than {100 * LIMIT:g} % of a step")
        rows = {"overhead_share": share, "overhead_us": 1e6 * cost, "network_us": 1e6 * whole}
        save("overhead", rows, command="python -m benchmarks.overhead")


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
