"""A hook as a block in the loops of Modular Diffusers.

Its loops run named blocks at every step: `denoiser` puts a prediction on the loop's state, the
block behind it hands that to the scheduler. Between the two stands the same clean estimate that
`attach` finds inside the scheduler's step, so one block there is enough, without touching the
scheduler:

    before_denoiser -> denoiser -> hook -> after_denoiser
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, final

import torch
from diffusers.modular_pipelines import (
    InputParam,
    LoopSequentialPipelineBlocks,
    ModularPipelineBlocks,
)

from elevator.errors import CheckError, HookError
from elevator.hook import Hook
from elevator.hosts.coefficients import family_of
from elevator.hosts.layouts import layout_of
from elevator.hosts.pipeline import pixels_per_latent, seeds_of
from elevator.hosts.scheduler import Engine
from elevator.noise import Noise, noise_of_run
from elevator.renoise import rules

__all__ = ["HookBlock", "insert"]

_NAME = "hook"
_DENOISER = "denoiser"


@final
class HookBlock(ModularPipelineBlocks):
    """Changes the prediction on a loop's state so that the scheduler finds the hook's estimate.

    It stands between the denoiser and the block that steps the scheduler, and reads `latents` and
    `noise_pred` from the state. Noise is keyed by the state the pipeline's generator has when the
    loop begins.

    Args:
        hook: the composition, without re-noising rules: those replace latents after the step.
        frames: frames per clip, for image pipelines.
        noise: as for `el.attach`.
        layout: as for `el.attach`.

    Raises:
        CheckError: in a run's first step, if scheduler or hook cannot be served.
        HookError: the loop's state has no prediction, or a hook broke its contract.
    """

    def __init__(
        self,
        hook: Hook[Any],
        *,
        frames: int | None = None,
        noise: Noise | torch.Generator | None = None,
        layout: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(hook, Hook):
            raise TypeError(
                f"HookBlock takes a hook, got {hook!r}; lift a plain function with stateless(fn)"
            )
        if rules(hook):
            raise CheckError(
                [
                    f"{type(rules(hook)[0]).__name__} replaces the latent after the step, where a "
                    "block behind the denoiser has no say; use el.attach(pipe, hook), which works "
                    "with modular pipelines too"
                ]
            )
        self._hook = hook
        self._frames = frames
        self._noise = noise
        self._layout = layout
        self._engine: Engine | None = None
        self._runs = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "HookBlock":
        """Copies of blocks, which pipelines make, share the hook and the networks inside it."""
        return HookBlock(self._hook, frames=self._frames, noise=self._noise, layout=self._layout)

    @property
    def description(self) -> str:
        """What the block does, as pipelines print it."""
        return f"step within the denoising loop that maps the clean estimate by {self._hook!r}"

    @property
    def inputs(self) -> list[InputParam]:
        """What the loop must put on its state."""
        return [InputParam("generator")]

    def __call__(self, components: Any, block_state: Any, i: int, t: Any) -> tuple[Any, Any]:
        """Change `noise_pred`, or leave the very same tensor there."""
        output = getattr(block_state, "noise_pred", None)
        latents = getattr(block_state, "latents", None)
        if output is None or latents is None:
            missing = "noise_pred" if output is None else "latents"
            raise HookError(
                f"the loop of {type(components).__name__} has no {missing} on its state where the "
                "hook's block stands; insert it right behind the block that makes noise_pred, or "
                "use el.attach"
            )
        if i == 0 or self._engine is None:
            self._engine = self._begin(components, getattr(block_state, "generator", None))
        written: list[Any] = []

        def keep(model_output: Any, sample: Any, **_: Any) -> tuple[Any]:
            written.append(model_output)
            return (sample,)

        arguments = {"model_output": output, "timestep": t, "sample": latents}
        self._engine.step(keep, arguments)
        (block_state.noise_pred,) = written
        return components, block_state

    def _begin(self, components: Any, generator: Any) -> Engine:
        """A run begins: check everything."""
        scheduler = components.scheduler
        if family_of(scheduler).given_clean:
            raise CheckError(
                [
                    f"{type(scheduler).__name__} is handed the clean estimate by its pipeline, so "
                    "there is no prediction to change; use el.attach"
                ]
            )
        self._runs += 1
        runs, seeds = self._runs, seeds_of(generator)
        engine = Engine(
            scheduler,
            self._hook,
            lambda ndim: self._layout or layout_of(components, ndim),
            self._frames,
            lambda shape: noise_of_run(self._noise, seeds, runs, shape),
            pictures=pixels_per_latent(components)[1],
        )
        engine.begin()
        return engine


def insert(
    blocks: Any,
    hook: Hook[Any],
    *,
    frames: int | None = None,
    noise: Noise | torch.Generator | None = None,
    layout: str | None = None,
) -> ExitStack:
    """Put a hook behind the denoiser of every loop of a modular pipeline or of its blocks.

    ```python
    blocks = WanBlocks()
    el.insert(blocks, hook)  # stays, also in pipelines made of these blocks
    pipe = blocks.init_pipeline()

    with el.insert(pipe, hook):  # or for a while
        pipe(prompt)
    ```

    Args:
        blocks: a `ModularPipeline`, or blocks; changed in place.
        hook: as for `HookBlock`.
        frames: as for `HookBlock`.
        noise: as for `HookBlock`.
        layout: as for `HookBlock`.

    Returns:
        A context manager that takes the hook out on exit or `close()`, and leaves the other blocks
        as they were.

    Raises:
        CheckError: there is no such loop, or it has a hook already.
    """
    kind = type(blocks).__name__
    loops = list(_loops(getattr(blocks, "_blocks", blocks)))
    if not loops:
        raise CheckError(
            [
                f"{kind} has no loop with a block named {_DENOISER!r} to put a hook behind; give a "
                "modular pipeline such as WanBlocks().init_pipeline(), or use el.attach(pipe, hook)"
            ]
        )
    if any(_NAME in loop for loop in loops):
        raise CheckError([f"{kind} already has a hook; chain the hooks and insert once"])
    undo = ExitStack()
    for loop in loops:
        block = HookBlock(hook, frames=frames, noise=noise, layout=layout)
        loop.insert(_NAME, block, list(loop).index(_DENOISER) + 1)
        undo.callback(loop.pop, _NAME, None)
    return undo


def _loops(blocks: Any) -> Iterator[Any]:
    """The named blocks of every loop that has a denoiser."""
    named = getattr(blocks, "sub_blocks", {})
    if isinstance(blocks, LoopSequentialPipelineBlocks) and _DENOISER in named:
        yield named
    for block in named.values():
        yield from _loops(block)
