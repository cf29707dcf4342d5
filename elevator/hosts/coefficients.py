"""What elevator knows of each diffusers scheduler: its noise levels, its history, its refusals.

diffusers keeps the noisy latent in one of four conventions; with (alpha, sigma) per step the clean
estimate is the same affine reading of (sample, model_output) in all of them (`elevator.level`).
"""

import copy
import inspect
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from elevator.errors import CheckError
from elevator.level import Level, Parametrisation
from elevator.schedule import Schedule

__all__ = [
    "Family",
    "counts_backwards",
    "family_of",
    "forget_history",
    "level_of_call",
    "parametrisation_of",
    "position_of_call",
    "prepared",
    "run_schedule",
    "supported_schedulers",
    "training_schedule",
]


@dataclass(frozen=True)
class Family:
    """How a scheduler writes noise levels.

    Attributes:
        levels: `cumprod` looks alphas_cumprod up by timestep; `exploding` keeps
            x = clean + sigma noise; `preserving` derives (alpha, sigma) from its sigmas;
            `flow` keeps x = (1 - sigma) clean + sigma noise.
        order: network calls per step.
        renoisable: whether a latent replaced after a step is followed once history is forgotten.
        consistency: whether one call gives the final clean estimate (LCM), which is then re-noised.
        given_clean: whether the pipeline reads the clean estimate itself and hands it to the step
            as `pred_original_sample`.
    """

    levels: Literal["cumprod", "exploding", "preserving", "flow"]
    order: int = 1
    renoisable: bool = True
    consistency: bool = False
    given_clean: bool = False


_FAMILIES: dict[str, Family] = {
    "DDIMScheduler": Family("cumprod"),
    "DDIMParallelScheduler": Family("cumprod"),
    "DDPMScheduler": Family("cumprod"),
    "DDPMParallelScheduler": Family("cumprod"),
    "CogVideoXDDIMScheduler": Family("cumprod"),
    # The pipeline keeps the solver's last clean estimate, where it cannot be forgotten.
    "CogVideoXDPMScheduler": Family("cumprod", renoisable=False),
    "LCMScheduler": Family("cumprod", consistency=True),
    "EDMEulerScheduler": Family("exploding", given_clean=True),
    "EulerDiscreteScheduler": Family("exploding"),
    "EulerAncestralDiscreteScheduler": Family("exploding"),
    "HeunDiscreteScheduler": Family("exploding", order=2, renoisable=False),
    "KDPM2DiscreteScheduler": Family("exploding", order=2, renoisable=False),
    "KDPM2AncestralDiscreteScheduler": Family("exploding", order=2, renoisable=False),
    "LMSDiscreteScheduler": Family("exploding", renoisable=False),
    "DPMSolverMultistepScheduler": Family("preserving"),
    "DPMSolverSinglestepScheduler": Family("preserving"),
    "UniPCMultistepScheduler": Family("preserving"),
    "FlowMatchEulerDiscreteScheduler": Family("flow"),
    "FlowMatchHeunDiscreteScheduler": Family("flow", order=2, renoisable=False),
    "FlowMatchLCMScheduler": Family("flow"),
}

# Their integrators do not end at the clean estimate they are given (measured), so a hook's edit
# would not arrive. Each with the nearest solver that can.
_REFUSED: dict[str, str] = {
    "PNDMScheduler": "DDIMScheduler",
    "IPNDMScheduler": "DDIMScheduler",
    "DEISMultistepScheduler": "DPMSolverMultistepScheduler",
    "SASolverScheduler": "DPMSolverMultistepScheduler",
}


def supported_schedulers() -> tuple[str, ...]:
    """Class names of the schedulers hooks can be attached to."""
    return tuple(_FAMILIES)


def family_of(scheduler: Any) -> Family:
    """The scheduler's family; raises `CheckError` with the line to paste if it cannot follow."""
    name = type(scheduler).__name__
    if name in _FAMILIES:
        return _FAMILIES[name]
    if name in _REFUSED:
        better = _REFUSED[name]
        extra = ", clip_sample=False, set_alpha_to_one=False" if better == "DDIMScheduler" else ""
        raise CheckError(
            [
                f"{name} does not follow an edited clean estimate to its end; switch the solver: "
                f"pipe.scheduler = {better}.from_config(pipe.scheduler.config{extra})"
            ]
        )
    raise CheckError(
        [
            f"{name} is not a scheduler elevator knows; switch the solver, e.g. "
            "pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, "
            "set_alpha_to_one=False) for epsilon or v networks, or "
            "FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config) for flow networks "
            f"(supported: {', '.join(_FAMILIES)})"
        ]
    )


def parametrisation_of(scheduler: Any) -> Parametrisation:
    """What the network behind the scheduler predicts."""
    family = family_of(scheduler)
    if family.given_clean:
        return "sample"
    if family.levels == "flow":
        return "flow_prediction"
    kind = getattr(scheduler.config, "prediction_type", "epsilon")
    if kind not in get_args(Parametrisation):
        raise CheckError(
            [
                f"prediction_type {kind!r} of {type(scheduler).__name__} is not supported; "
                f"expected one of {', '.join(get_args(Parametrisation))}"
            ]
        )
    return cast(Parametrisation, kind)


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _is_flow(family: Family, scheduler: Any) -> bool:
    return family.levels == "flow" or bool(getattr(scheduler.config, "use_flow_sigmas", False))


def _pair(family: Family, scheduler: Any, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) from the scheduler's own sigma."""
    sigma = sigma.double().cpu()
    if _is_flow(family, scheduler):
        sigma = 1 - sigma if counts_backwards(scheduler) else sigma
        return 1 - sigma, sigma
    if family.levels == "exploding":
        return torch.ones_like(sigma), sigma
    alpha = (1 + sigma**2).rsqrt()
    return alpha, sigma * alpha


def counts_backwards(scheduler: Any) -> bool:
    """Whether sigma is the signal's part, and the network predicts clean minus noise (Mochi)."""
    return bool(getattr(scheduler.config, "invert_sigmas", False))


def _cumprod(scheduler: Any, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    product = scheduler.alphas_cumprod.cpu()[timesteps.long().cpu()]
    # Square roots in the dtype of the table: the very numbers the scheduler itself uses.
    return (product**0.5).double(), ((1 - product) ** 0.5).double()


def position_of_call(scheduler: Any, timestep: Any) -> int:
    """Index into `scheduler.timesteps` of the step call about to be made."""
    index = getattr(scheduler, "step_index", None)
    if index is None:
        index = getattr(scheduler, "begin_index", None)
    if index is not None:
        return int(index)
    if hasattr(scheduler, "index_for_timestep"):
        return int(scheduler.index_for_timestep(timestep))
    found = (scheduler.timesteps.cpu() == torch.as_tensor(timestep).cpu()).nonzero()
    if not len(found):
        raise CheckError(
            [f"timestep {timestep} is not one of the scheduler's; call set_timesteps first"]
        )
    return int(found[0])


def level_of_call(scheduler: Any, position: int, timestep: Any) -> Level:
    """Noise level of the sample given to the step call at `position`."""
    family = family_of(scheduler)
    told = torch.as_tensor(timestep, dtype=torch.float64).cpu()
    if family.levels == "cumprod":
        alpha, sigma = _cumprod(scheduler, torch.as_tensor(timestep))
        return Level(alpha, sigma, told)
    sigmas = scheduler.sigmas
    midpoint = getattr(scheduler, "sigmas_interpol", None)
    if midpoint is not None and not scheduler.state_in_first_order:
        # KDPM2 evaluates its second half between two levels; the ancestral one looks its midpoint
        # up at the index of the first half.
        sigmas = midpoint
        position -= type(scheduler).__name__ == "KDPM2AncestralDiscreteScheduler"
    alpha, sigma = _pair(family, scheduler, sigmas[position])
    return Level(alpha, sigma, told)


def prepared(scheduler: Any, steps: int, tokens: int | None = None) -> Any:
    """A copy of a scheduler, ready for a run of this many steps.

    Args:
        scheduler: the pipeline's.
        steps: num_inference_steps.
        tokens: of a row of latents, on which the levels of some flow models depend; by default, and
            where it does not matter, as many as their configuration goes up to.

    Raises:
        CheckError: it has no such run.
    """
    copied = copy.deepcopy(scheduler)
    taken = inspect.signature(scheduler.set_timesteps).parameters
    shifts = scheduler.config.get("use_dynamic_shifting") and "mu" in taken
    given = {"mu": _shift(scheduler, tokens)} if shifts else {}
    try:
        copied.set_timesteps(steps, **given)
    except ValueError as error:
        raise CheckError(
            [f"the pipeline's scheduler has no run of {steps} steps: {error}"]
        ) from error
    return copied


def _shift(scheduler: Any, tokens: int | None) -> float:
    """How far levels are shifted towards noise: linear in the number of tokens (diffusers' `mu`).

    Esser et al. 2024, arXiv 2403.03206, section 5.3.2; as Flux, Qwen-Image and LTX do it.
    """

    def number(name: str, otherwise: float) -> float:
        found = scheduler.config.get(name)
        return float(otherwise if found is None else found)

    few, many = number("base_image_seq_len", 256), number("max_image_seq_len", 4096)
    low, high = number("base_shift", 0.5), number("max_shift", 1.15)
    return low + (high - low) * ((many if tokens is None else tokens) - few) / (many - few)


def run_schedule(scheduler: Any) -> Schedule:
    """The levels of the run prepared by `set_timesteps`, one per logical step."""
    family = family_of(scheduler)
    timesteps = scheduler.timesteps.cpu()
    if family.levels == "cumprod":
        alphas, sigmas = _cumprod(scheduler, timesteps)
        product = torch.as_tensor(getattr(scheduler, "final_alpha_cumprod", 1.0))
        if family.consistency or type(scheduler).__name__.startswith("DDPM"):
            product = torch.ones(())
        final = Level((product**0.5).double(), ((1 - product) ** 0.5).double(), _scalar(0.0))
        return Schedule(alphas, sigmas, timesteps.double(), final)
    alphas, sigmas = _pair(family, scheduler, scheduler.sigmas)
    if family.order == 2:  # 2n - 1 calls: the first, then pairs that share a step
        timesteps = timesteps[::2]
        final = Level(alphas[-1], sigmas[-1], _scalar(0.0))
        firsts = slice(0, 2 * len(timesteps), 2)
        return Schedule(alphas[firsts], sigmas[firsts], timesteps.double(), final)
    final = Level(alphas[len(timesteps)], sigmas[len(timesteps)], _scalar(0.0))
    count = len(timesteps)
    return Schedule(alphas[:count], sigmas[:count], timesteps.double(), final)


def training_schedule(scheduler: Any) -> Schedule:
    """Every level the network was trained at, noisiest first."""
    family = family_of(scheduler)
    total = int(scheduler.config.num_train_timesteps)
    if _is_flow(family, scheduler):
        sigmas = torch.linspace(1, 1 / total, total, dtype=torch.float64)
        final = Level(_scalar(1.0), _scalar(0.0), _scalar(0.0))
        return Schedule(1 - sigmas, sigmas, sigmas * total, final)
    timesteps = torch.arange(total - 1, -1, -1)
    alphas, sigmas = _cumprod(scheduler, timesteps)
    final = Level(_scalar(1.0), _scalar(0.0), _scalar(0.0))
    return Schedule(alphas, sigmas, timesteps.double(), final)


def forget_history(scheduler: Any) -> None:
    """Reset a multistep solver's memory, after its latent was replaced.

    Otherwise UniPC's corrector would restart from its own last sample and discard the new latent
    (error 1.15 of the latent's size, measured; 1e-7 after the reset).
    """
    state = vars(scheduler)
    if "model_outputs" in state:
        scheduler.model_outputs = [None] * len(scheduler.model_outputs)
    if "timestep_list" in state:
        scheduler.timestep_list = [None] * len(scheduler.timestep_list)
    for name, empty in (("last_sample", None), ("lower_order_nums", 0)):
        if name in state:
            setattr(scheduler, name, empty)
