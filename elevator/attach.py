"""Put a hook inside any diffusers pipeline for the length of a `with` block."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from elevator.errors import CheckError, HookError
from elevator.hook import Hook
from elevator.latent import publish_frames
from elevator.noise import KeyedNoise, Noise, noise_of_run
from elevator.patch import Patch

__all__ = ["attach", "check"]


def check(
    pipeline: Any,
    hook: Hook[Any],
    patches: Sequence[Patch] = (),
    frames: int | None = None,
    *,
    steps: int | None = None,
    layout: str | None = None,
) -> tuple[str, ...]:
    """Why a composition cannot run on a pipeline; empty if it can.

    Args:
        pipeline: any diffusers pipeline.
        hook: the composition.
        patches: changes inside its network that would be applied.
        frames: frames per clip, as for `attach`.
        steps: num_inference_steps of the run; what depends on it (where hooks act, two rules at one
            step, another model's grid) is looked at only where it is given.
        layout: as for `attach`.

    Returns:
        Plain sentences, each with its remedy, over the whole composition.
    """
    from elevator.hosts.coefficients import prepared, run_schedule
    from elevator.hosts.pipeline import knows_its_frames, network_of, refusal_of
    from elevator.hosts.scheduler import Engine, problems_of

    if not isinstance(hook, Hook):
        raise TypeError(
            f"attach takes a hook, got {hook!r}; lift a plain function with stateless(fn)"
        )
    scheduler = getattr(pipeline, "scheduler", None)
    if scheduler is None:
        return (
            f"{type(pipeline).__name__} has no scheduler to attach to; "
            "give a diffusers pipeline that samples with one",
        )
    refused = refusal_of(pipeline)
    if refused is not None:
        return (refused,)
    problems: list[str] = []
    if frames is not None and frames < 1:
        problems.append(f"frames={frames} is no number of frames; give 1 or more")
    if frames is None and not knows_its_frames(pipeline, layout):
        problems.append(
            f"{type(pipeline).__name__} does not tell how many frames its batch holds; "
            "give frames=... (1 for single images)"
        )
    network = network_of(pipeline)
    if patches and network is None:
        problems.append(
            f"{type(pipeline).__name__} has neither unet nor transformer to patch; drop patches=..."
        )
    try:
        engine = Engine(scheduler, hook, lambda ndim: "", frames, KeyedNoise)
        host = engine.host()
        if steps is not None:
            host = engine.host(len(run_schedule(prepared(scheduler, steps))))
    except CheckError as error:
        return (*problems, *error.problems)
    problems += problems_of(hook, host)
    if network is not None:
        problems += [problem for patch in patches for problem in patch.check(network)]
    return tuple(dict.fromkeys(problems))


@contextmanager
def attach(
    pipeline: Any,
    hook: Hook[Any],
    patches: Sequence[Patch] = (),
    *,
    frames: int | None = None,
    noise: Noise | torch.Generator | None = None,
    layout: str | None = None,
) -> Iterator[None]:
    """Run `hook` inside every sampling step of `pipeline` within the `with` block.

    The pipeline is called as always, as often as wanted; on exit, also after an exception, its
    scheduler has its very class back. A hook that changes nothing is bitwise invisible.

    Args:
        pipeline: any diffusers pipeline with a scheduler of the allow-list.
        hook: the composition; see `el.check` and `el.plan` to look before you run.
        patches: changes inside the pipeline's network, undone on exit.
        frames: frames per clip. Needed for image pipelines, whose batch holds the frames.
        noise: where hooks draw from. None: keyed by the pipeline's generator, which does not
            advance; a `torch.Generator`: streamed from it in order; or any `Noise`.
        layout: einops pattern of the latents at the step, for pipelines elevator does not know.

    Raises:
        CheckError: something cannot work; all reasons together, before anything runs.
        HookError: a hook broke its contract, or a run began and never took a step.
        LayoutError: the latents at the step are not laid out as expected; raised in the first step.
    """
    problems = check(pipeline, hook, patches, frames, layout=layout)
    if problems:
        raise CheckError(problems)
    from elevator.hosts.layouts import (
        FRAMES_IN_BATCH,
        declared_layout,
        layout_of,
        packs_tokens,
    )
    from elevator.hosts.pipeline import (
        grid_of,
        networks_of,
        pixels_per_latent,
        puts_prompt_first,
        seeds_of,
        watch_latents,
        watch_network,
    )
    from elevator.hosts.scheduler import Engine, swap_class, unswap_class

    seeds: tuple[int, ...] = ()

    def source(shape: tuple[int, int, int, int, int]) -> Noise:
        return noise_of_run(noise, seeds, engine.runs, shape)

    def told(arguments: dict[str, Any]) -> None:
        nonlocal seeds
        seeds = seeds_of(arguments.get("generator"))
        engine.prepared = True
        pattern = layout or declared_layout(pipeline)
        if pattern is not None and packs_tokens(pattern):
            engine.grid = grid_of(pipeline, pattern, arguments)
        count = arguments.get("num_frames")
        if frames is None and count is not None:
            engine.frames = (int(count) - 1) // engine.pictures + 1
            undo.enter_context(publish_frames(engine.frames))
        elif declared_layout(pipeline) == FRAMES_IN_BATCH and count not in (None, frames):
            raise CheckError(
                [
                    f"attach was given frames={frames}, but the clip has {count}; drop frames=..., "
                    f"{type(pipeline).__name__} tells it itself"
                ]
            )

    scheduler, networks = pipeline.scheduler, networks_of(pipeline)
    network = networks[0] if networks else None
    engine = Engine(
        scheduler,
        hook,
        lambda ndim: layout or layout_of(pipeline, ndim),
        frames,
        source,
        networks=networks,
        prompt_first=puts_prompt_first(pipeline),
        pictures=pixels_per_latent(pipeline)[1],
    )
    original = type(scheduler)
    with ExitStack() as undo:
        if frames is not None:
            undo.enter_context(publish_frames(frames))
        for patch in patches:
            assert network is not None
            undo.enter_context(patch.apply(network))
        undo.enter_context(watch_latents(pipeline, told))
        undo.enter_context(watch_network(network, engine))
        swap_class(scheduler, engine)
        undo.callback(unswap_class, scheduler, original)
        yield
        if pipeline.scheduler is not scheduler:
            raise HookError(
                "the pipeline's scheduler was replaced while a hook was attached, so the hook was "
                "lost; set the scheduler first, then attach"
            )
        if (engine.prepared or engine.runs) and not engine.steps_seen:
            raise HookError(
                f"{type(pipeline).__name__} prepared a run but never called scheduler.step, so the "
                "hook did nothing; this pipeline steps some other way and cannot be hooked here"
            )
