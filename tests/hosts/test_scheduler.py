"""Every scheduler on the allow-list, with a hook inside a hand-written loop."""

from itertools import pairwise
from typing import Any, final

import pytest
import torch
from torch import Tensor

from elevator.attach import attach
from elevator.combine import chain, identity, stateless
from elevator.errors import CheckError
from elevator.hook import Hook, Step
from elevator.hosts.layouts import FRAMES_IN_BATCH, from_host
from elevator.latent import Latent
from tests.hosts.loops import FRAMES, LOOPED, SECOND_ORDER, Loop, scheduler_for

# KDPM2's own use of numpy, outside a pipeline's `no_grad`.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")

TARGET = 0.375  # exact in every dtype


def _constant(clean: Latent, step: Step) -> Latent:
    return torch.full_like(clean, TARGET)


class Watch:
    """A hook that changes nothing and remembers what it saw."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.hook = stateless(self._see)

    def _see(self, clean: Latent, step: Step) -> Latent:
        self.steps.append(step)
        return clean


# Settings under which a scheduler's levels, order or randomness differ.
VARIANTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((name, {}, {}) for name in LOOPED),
    *(
        (name, {"timestep_spacing": spacing}, {})
        for name in (
            "DDIMScheduler",
            "DDPMScheduler",
            "EulerDiscreteScheduler",
            "EulerAncestralDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "LMSDiscreteScheduler",
            "DPMSolverMultistepScheduler",
            "UniPCMultistepScheduler",
        )
        for spacing in ("trailing", "linspace")
    ),
    *(
        (name, {flag: True}, {})
        for name in (
            "EulerDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "LMSDiscreteScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "UniPCMultistepScheduler",
            "FlowMatchEulerDiscreteScheduler",
            "FlowMatchLCMScheduler",
        )
        for flag in ("use_karras_sigmas", "use_exponential_sigmas")
    ),
    *(
        (name, {"prediction_type": kind}, {})
        for name in LOOPED
        if not name.startswith("FlowMatch")
        for kind in ("v_prediction", "sample")
        # Their own step does not know it.
        if kind != "sample"
        or name
        not in (
            "EulerDiscreteScheduler",
            "EulerAncestralDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "LMSDiscreteScheduler",
        )
    ),
    ("DDIMScheduler", {}, {"eta": 0.7}),
    ("DDIMScheduler", {"set_alpha_to_one": True}, {"eta": 1.0, "use_clipped_model_output": True}),
    ("DDIMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, {}),
    ("CogVideoXDDIMScheduler", {"prediction_type": "v_prediction", "snr_shift_scale": 1.0}, {}),
    *(
        (name, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, {})
        for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
    ),
    *(
        ("DPMSolverMultistepScheduler", {"algorithm_type": kind, "solver_order": order}, {})
        for kind, order in (("dpmsolver++", 3), ("sde-dpmsolver++", 2), ("sde-dpmsolver++", 3))
    ),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3}, {}),
    ("UniPCMultistepScheduler", {"solver_order": 3}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {}),
]

# Those that move the clean estimate themselves: only the invisibility of hooks can be told.
CLIPPING: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *(
        (name, {"thresholding": True, "sample_max_value": 1.2}, {})
        for name in (
            "DDIMScheduler",
            "DDPMScheduler",
            "DPMSolverMultistepScheduler",
            "UniPCMultistepScheduler",
        )
    ),
    ("DDIMScheduler", {"clip_sample": True}, {}),
    ("LCMScheduler", {"clip_sample": True}, {}),
    (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"},
        {},
    ),
]


def _name(value: Any) -> str | None:
    if isinstance(value, dict):
        return "-".join(f"{key}={item}" for key, item in value.items()) or "default"
    return None


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize(("name", "config", "options"), VARIANTS + CLIPPING, ids=_name)
@pytest.mark.parametrize("steps", [1, 5])
def test_a_hook_that_changes_nothing_is_bitwise_invisible(
    name: str, config: dict[str, Any], options: dict[str, Any], steps: int
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        plain = Loop(scheduler_for(name, **config))(steps, dtype=dtype, **options)
        loop, watch = Loop(scheduler_for(name, **config)), Watch()
        with attach(loop, chain(watch.hook, identity()), frames=FRAMES):
            assert _same(loop(steps, dtype=dtype, **options), plain)
        assert watch.steps, "the hook was not called"


@pytest.mark.parametrize(("name", "config", "options"), VARIANTS, ids=_name)
def test_a_constant_estimate_is_where_it_ends(
    name: str, config: dict[str, Any], options: dict[str, Any]
) -> None:
    loop = Loop(scheduler_for(name, **config))
    with attach(loop, stateless(_constant), frames=FRAMES):
        latents = loop(5, **options)
    if name.startswith(("DDIM", "CogVideoX")) and not config.get("set_alpha_to_one"):
        # The run ends a hair above no noise, and what is left of it is the first step's.
        product = loop.scheduler.final_alpha_cumprod
        assert product < 1
        if config.get("timestep_spacing") == "linspace":
            pytest.skip("on linspace DDIM steps past the levels it visits")
        if options:  # with eta there is new noise
            assert (latents[-1] - product**0.5 * TARGET).abs().max() < 6 * (1 - product) ** 0.5
            return
        first = loop.scheduler.alphas_cumprod[loop.scheduler.timesteps[0]]
        noise = (latents[0] - first**0.5 * TARGET) / (1 - first) ** 0.5
        expected = product**0.5 * TARGET + (1 - product) ** 0.5 * noise
    else:
        expected = torch.full_like(latents[-1], TARGET)
    # LCM keeps c_skip of the noisy latent by definition.
    tolerance = 2e-4 if name == "LCMScheduler" else 2e-5
    torch.testing.assert_close(latents[-1], expected, rtol=0.0, atol=tolerance)


REPORTS = [
    variant
    for variant in VARIANTS
    if not variant[0].startswith(("FlowMatch", "DPMSolver", "UniPC", "LCM"))
]


@pytest.mark.parametrize(("name", "config", "options"), REPORTS, ids=_name)
def test_the_estimate_is_the_schedulers_own(
    name: str, config: dict[str, Any], options: dict[str, Any]
) -> None:
    loop, watch = Loop(scheduler_for(name, **config)), Watch()
    reported: list[Tensor] = []
    with attach(loop, watch.hook, frames=FRAMES):
        loop(6, tell=lambda result: reported.append(result.pred_original_sample), **options)
    assert len(watch.steps) == len(reported)
    for step, own in zip(watch.steps, reported, strict=True):
        size = max(1.0, float(own.abs().max()))
        wanted = from_host(own, FRAMES_IN_BATCH, FRAMES) / size
        torch.testing.assert_close(step.predicted.clean / size, wanted, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(("name", "config", "options"), VARIANTS, ids=_name)
def test_levels_clean_and_noise_agree(
    name: str, config: dict[str, Any], options: dict[str, Any]
) -> None:
    """What a hook is told fits together: noisy = alpha * clean + sigma * noise; levels chain."""
    loop, watch = Loop(scheduler_for(name, **config)), Watch()
    with attach(loop, watch.hook, frames=FRAMES):
        loop(4, **options)
    order = 2 if name in SECOND_ORDER else 1
    assert [step.index for step in watch.steps] == [i // order for i in range(4 * order)][
        : len(watch.steps)
    ]
    for step in watch.steps:
        clean, noise = step.predicted
        again = step.level.alpha * clean + step.level.sigma * noise
        size = step.noisy.abs().max()
        torch.testing.assert_close(again / size, step.noisy / size, rtol=0.0, atol=1e-5)
        assert step.noisy.shape == step.run.shape == (2, 4, FRAMES, 4, 6)
    firsts = watch.steps[::order]
    assert all(step.next.sigma <= step.level.sigma for step in firsts)
    for one, other in pairwise(firsts):
        assert torch.allclose(one.next.sigma, other.level.sigma)
        assert one.next.timestep == other.level.timestep


@pytest.mark.parametrize("name", LOOPED)
def test_starting_in_the_middle(name: str) -> None:
    plain = Loop(scheduler_for(name))(6, begin=2)
    loop, watch = Loop(scheduler_for(name)), Watch()
    with attach(loop, watch.hook, frames=FRAMES):
        assert _same(loop(6, begin=2), plain)
    assert watch.steps[0].index == 2
    assert watch.steps[-1].index == 5
    loop = Loop(scheduler_for(name))
    with attach(loop, stateless(_constant), frames=FRAMES):
        last = loop(6, begin=2)[-1]
    assert (last - TARGET).abs().max() < 0.3  # what DDIM and CogVideoX leave of the noise


@final
class _Count(Hook[int]):
    """Counts its calls in its state; `seen` is what the state was at each."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def init(self, run: Any) -> int:
        return 0

    def update(self, clean: Latent, step: Step, state: int) -> tuple[Latent, int]:
        self.seen.append((step.index, state))
        return clean, state + 1


@pytest.mark.parametrize("name", LOOPED)
def test_state_is_per_run(name: str) -> None:
    """Two calls inside one attach, and a loop that starts over without setting its timesteps."""
    count, loop = _Count(), Loop(scheduler_for(name))
    order = 2 if name in SECOND_ORDER else 1
    with attach(loop, count, frames=FRAMES):
        loop(3)
        loop(4)
    runs = [
        [(call // order, call) for call in range(steps * order - order + 1)] for steps in (3, 4)
    ]
    assert count.seen == runs[0] + runs[1]


def test_a_loop_that_starts_over_is_a_new_run() -> None:
    count, loop = _Count(), Loop(scheduler_for("DDIMScheduler"))
    with attach(loop, count, frames=FRAMES):
        loop(2)
        loop(set_timesteps=False)
        loop(set_timesteps=False)
    assert count.seen == [(0, 0), (1, 1)] * 3


def test_timesteps_set_before_attaching() -> None:
    loop, watch = Loop(scheduler_for("EulerDiscreteScheduler")), Watch()
    loop.scheduler.set_timesteps(3)
    with attach(loop, watch.hook, frames=FRAMES):
        loop(set_timesteps=False)
    assert [step.index for step in watch.steps] == [0, 1, 2]


REFUSED = {
    "PNDMScheduler": "DDIMScheduler",
    "IPNDMScheduler": "DDIMScheduler",
    "DEISMultistepScheduler": "DPMSolverMultistepScheduler",
    "SASolverScheduler": "DPMSolverMultistepScheduler",
    "DPMSolverMultistepInverseScheduler": "DDIMScheduler",
}


@pytest.mark.parametrize(("name", "better"), REFUSED.items())
def test_a_refused_solver_comes_with_the_line_that_helps(name: str, better: str) -> None:
    import diffusers

    pipe = Loop(getattr(diffusers, name)())
    with pytest.raises(CheckError, match=name) as caught, attach(pipe, identity(), frames=FRAMES):
        pass
    message = str(caught.value)
    line = message[message.index("pipe.scheduler = ") :]
    line = line[: line.index("config") + line[line.index("config") :].index(")") + 1]
    exec(line, {"pipe": pipe, **vars(diffusers)}, {better: getattr(diffusers, better)})
    assert type(pipe.scheduler).__name__ == better
    with attach(pipe, stateless(_constant), frames=FRAMES):
        last = pipe(5)[-1]
    assert (last - TARGET).abs().max() < 0.2


def test_an_inverted_flow_is_read_the_other_way_round() -> None:
    """Mochi's network runs from noise at sigma 0 to clean at 1, and predicts clean - noise."""
    loop = Loop(scheduler_for("FlowMatchEulerDiscreteScheduler", invert_sigmas=True))
    clean, watch = torch.full((2 * FRAMES, 4, 4, 6), 0.375), Watch()
    first: list[torch.Tensor] = []

    def network(noisy: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        first.append(noisy)
        return clean - first[0]

    with attach(loop, watch.hook, frames=FRAMES):
        latents = loop(4, model=network)
    torch.testing.assert_close(latents[-1], clean, atol=1e-5, rtol=0.0)
    for step in watch.steps:
        torch.testing.assert_close(
            step.predicted.clean, torch.full_like(step.predicted.clean, 0.375), atol=1e-5, rtol=0.0
        )
    sigmas = [float(step.level.sigma) for step in watch.steps]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[0] == pytest.approx(1)


def test_an_unknown_prediction_type_is_refused() -> None:
    loop = Loop(scheduler_for("DDIMScheduler", prediction_type="original"))
    with (
        pytest.raises(CheckError, match=r"'original'.*expected one of epsilon"),
        attach(loop, identity(), frames=FRAMES),
    ):
        pass
