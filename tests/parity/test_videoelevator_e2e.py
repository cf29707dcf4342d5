"""Whole runs of VideoElevator against the reference's recorded intermediates.

The parts are put together in the reference's arrangement, driven by each case's json and tensors
alone: attached to a plain StableDiffusionPipeline, with the reference's half-clip groups in the
inversion and its own random draws.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

import elevator as el
from elevator.denoise import count_calls
from elevator.filters import LowPass
from elevator.hosts.denoiser import PipelineDenoiser
from elevator.hosts.pipeline import quiet_deprecation
from elevator.latent import publish_frames
from elevator.models.inflate import CrossFrameAttention
from elevator.recipes import videoelevator
from elevator.samplers import DDIM, LCM, DDIMInversion, SDEdit
from tests.parity.cases import (
    COMMITTED,
    cases_of,
    folder_of,
    model_of,
    offer,
    read_json,
    read_tensors,
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    if metafunc.function is test_every_step_agrees:
        folder = folder_of(metafunc.config, "videoelevator") / "e2e"
        offer(metafunc, "case", [folder / name for name in cases_of(folder)], _name)
    else:
        folder = COMMITTED / "videoelevator" / "e2e"
        metafunc.parametrize("case", [folder / name for name in cases_of(folder)], ids=_name)


def _name(path: Path) -> str:
    return path.name


class Reference:
    """One recorded run: settings, tensors, the two pipelines and every random draw by its place."""

    def __init__(self, case: Path) -> None:
        self.settings: dict[str, Any] = read_json(case)
        self.tensors = read_tensors(case)
        self.folder = case.parents[1]
        self.frames: int = self.settings["video_length"]
        self.steps: int = self.settings["num_inference_steps"]
        extra: dict[str, Any] = self.settings.get("extra") or {}
        self.eta: float = extra.get("eta") or 0.0
        self.corrected = extra.get("inversion_name", "pnp_inv") == "pnp_inv"
        # Entries beyond the run are ignored, and the filter skips the last-listed one.
        listed = self.settings.get("stable_steps") or []
        self.refine = [remaining for remaining in listed if remaining <= self.steps]
        self.filtered = [remaining for remaining in self.refine if remaining > listed[-1]]
        self.t2i = self._t2i()
        self.t2v = self._t2v()
        self.initial: list[Tensor] = []
        self.host_draws: list[Tensor] = []
        self.hook_draws: dict[tuple[int, str], Tensor] = {}
        self._place_draws()

    def _network(self, cls: Any, name: str) -> Any:
        folder = model_of(self.folder, name)
        assert folder is not None
        return cls.from_pretrained(folder)

    def _t2i(self) -> Any:
        from diffusers import (
            AutoencoderKL,
            DDIMScheduler,
            StableDiffusionPipeline,
            UNet2DConditionModel,
        )

        pipe = StableDiffusionPipeline(
            vae=self._network(AutoencoderKL, "vae"),
            text_encoder=None,
            tokenizer=None,
            unet=self._network(UNet2DConditionModel, "t2i_unet"),
            scheduler=DDIMScheduler.from_config(self.settings["t2i_scheduler"]),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _t2v(self) -> Any:
        from diffusers import (
            AnimateDiffPipeline,
            DDIMScheduler,
            LCMScheduler,
            TextToVideoSDPipeline,
            UNet3DConditionModel,
            UNetMotionModel,
        )

        config = dict(self.settings["t2v_scheduler"])
        self.lcm = config.pop("class") == "LCMScheduler"
        scheduler = (LCMScheduler if self.lcm else DDIMScheduler).from_config(config)
        rest = {"vae": self.t2i.vae, "text_encoder": None, "tokenizer": None}
        if self.settings["kind"] == "animatelcm":
            unet = self._network(UNetMotionModel, "t2v_unet_motion")
            return AnimateDiffPipeline(unet=unet, motion_adapter=None, scheduler=scheduler, **rest)
        unet = self._network(UNet3DConditionModel, "t2v_unet3d")
        with quiet_deprecation():
            return TextToVideoSDPipeline(unet=unet, scheduler=scheduler, **rest)

    def _place_draws(self) -> None:
        """Find what each recorded draw was for: the event that follows it tells."""
        names = iter(sorted(name for name in self.tensors if name.startswith("rng/")))
        drawn: list[Tensor] = []
        seen: Counter[tuple[int, str]] = Counter()
        step = -1
        for event in self.settings.get("trace") or []:
            op = event.get("op")
            begins = op == "t2i_unet" and event.get("role") == "denoise"
            step = event.get("step", step + 1 if begins else step)
            if op == "randn":
                listed = next(names, "")
                tensor = self.tensors[event.get("name", listed)]
                (self.initial if step < 0 else drawn).append(tensor)
            elif op in ("t2v.add_noise", "t2v_unet") and drawn:  # noised for the T2V's first call
                (self.hook_draws[step, "sdedit"],) = drawn
                drawn.clear()
            elif op in ("t2i.step", "t2v.step"):
                order = seen[step, op]
                seen[step, op] += 1
                if not drawn:
                    continue
                (tensor,) = drawn
                drawn.clear()
                if op == "t2v.step":
                    self.hook_draws[step, f"solver {step + order}"] = tensor
                elif order == 2:
                    self.hook_draws[step, "correction"] = tensor
                elif order == 1:  # it steps twice, and throws the first result away
                    self.host_draws.append(tensor)

    def denoisers(self) -> tuple[PipelineDenoiser, PipelineDenoiser, PipelineDenoiser | None]:
        """The T2V, and the T2I for inversion and correction, as the reference calls them."""
        context, frames = self.tensors["in/t2i_ctx"], self.frames
        negative, positive = context[:1], context[frames : frames + 1]
        against, towards = self.tensors.get("in/t2v_ctx", torch.zeros(2, 1, 1)).chunk(2)
        scale = self.settings["video_guidance_scale"]
        halves = max(1, frames // 2)  # its inversion anchors each half of the clip apart
        return (
            PipelineDenoiser(self.t2v, towards, against, scale, None, "T2V"),
            PipelineDenoiser(self.t2i, negative, None, 1.0, halves, "inversion"),
            PipelineDenoiser(self.t2i, positive, None, 1.0, None, "correction")
            if self.corrected
            else None,
        )

    def filter(self) -> el.Hook[Any]:
        chosen = self.settings.get("filter")
        if not chosen or not self.filtered:
            return el.identity()
        low = LowPass(
            chosen["method"],
            temporal=chosen["d_t"],
            spatial=chosen["d_s"],
            order=chosen.get("n") or 4,
            convention="freeinit",
        )
        return el.at({self.steps - remaining for remaining in self.filtered}, low)

    def composition(self, *, reuse: bool = True) -> el.Hook[Any]:
        if not self.refine:
            return el.identity()
        t2v, invert, correct = self.denoisers()
        solver = LCM() if self.lcm else DDIM(self.eta)
        refinement = SDEdit(t2v, self.settings["stable_num"], solver)
        return el.renoise(
            el.chain(
                self.filter(),
                el.at({self.steps - remaining for remaining in self.refine}, refinement),
            ),
            DDIMInversion(invert, correct, reuse=reuse and correct is not None),
        )

    def start(self) -> Tensor:
        """The initial latents, from the recorded draws or as given."""
        given = self.tensors.get("in/latents_arg")
        if given is not None and given.numel():
            return given
        base, own = self.initial
        alpha = self.settings["alpha"]
        mixed: Tensor = (alpha * base + own) / (1 + alpha**2) ** 0.5
        return mixed

    def run(
        self, hook: el.Hook[Any], after_step: Callable[[int, Tensor], None] = lambda i, x: None
    ) -> Tensor:
        """Sample with the T2I pipeline, the composition attached; gives the final latents."""

        def tell(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            after_step(index, tensors["latents"])
            return {}

        guidance, frames = self.settings["guidance_scale"], self.frames
        # Its groups are half the batch, also where there is no guidance to double it.
        anchor = frames if guidance > 1 else max(1, frames // 2)
        context = self.tensors["in/t2i_ctx"]
        noise = el.RecordedNoise(by_key=self.hook_draws)
        inflated = [CrossFrameAttention()]
        with (
            el.attach(self.t2i, hook, inflated, frames=frames, noise=noise),
            publish_frames(anchor),
        ):
            start, pixels = self.start(), self.t2i.vae_scale_factor
            latents: Tensor = self.t2i(
                prompt_embeds=context[-frames:],
                negative_prompt_embeds=context[:frames],
                num_inference_steps=self.steps,
                guidance_scale=guidance,
                eta=self.eta,
                height=start.shape[-2] * pixels,
                width=start.shape[-1] * pixels,
                latents=start,
                output_type="latent",
                callback_on_step_end=tell,
            ).images
        return latents


@pytest.fixture
def reference(case: Path, monkeypatch: pytest.MonkeyPatch) -> Reference:
    loaded = Reference(case)
    draws = iter(loaded.host_draws)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddim.randn_tensor", lambda *args, **kwargs: next(draws)
    )
    return loaded


def _close(got: Tensor, wanted: Tensor, where: str) -> None:
    torch.testing.assert_close(
        got, wanted, atol=5e-4, rtol=1e-4, msg=lambda text: f"{where}: {text}"
    )


def test_every_step_agrees(reference: Reference) -> None:
    """Clean estimates, refined estimates, latents of every step, and the decoded images."""
    tensors, after = reference.tensors, {}

    def before_hooks(clean: Tensor, step: el.Step) -> Tensor:
        key = f"s{step.index:02d}/t2i_x0"
        if key in tensors:
            _close(rearrange(clean, "1 c f h w -> f c h w"), tensors[key], key)
        return clean

    def after_hooks(clean: Tensor, step: el.Step) -> Tensor:
        key = f"s{step.index:02d}/invert_in"
        if key in tensors:
            after[key] = True
            _close(rearrange(clean, "1 c f h w -> f c h w"), tensors[key], key)
        return clean

    def after_step(index: int, latents: Tensor) -> None:
        key = f"s{index + 1:02d}/latents_in"
        if key in tensors:
            _close(latents, tensors[key], key)

    hook = el.chain(el.stateless(before_hooks), reference.composition(), el.stateless(after_hooks))
    latents = reference.run(hook, after_step)
    assert set(after) == {key for key in tensors if key.endswith("/invert_in")}
    _close(latents, tensors["out/latents"], "out/latents")
    if "out/images" in tensors:
        vae = reference.t2i.vae
        with torch.no_grad():
            decoded = vae.decode(latents / vae.config.scaling_factor).sample
        images = rearrange((decoded / 2 + 0.5).clamp(0, 1), "f c h w -> f h w c")
        torch.testing.assert_close(images, tensors["out/images"], atol=1e-4, rtol=0.0)


def test_without_reuse_it_is_the_same(reference: Reference) -> None:
    """Reading the correction off the host's call changes nothing but the number of calls."""
    latents = reference.run(reference.composition(reuse=False))
    _close(latents, reference.tensors["out/latents"], "out/latents")


def test_the_redundant_calls_are_gone(reference: Reference) -> None:
    """Calls are those of the reference less the three kinds it makes for nothing."""
    recorded = reference.settings["counts"]
    with count_calls() as calls:
        reference.run(reference.composition())
    made = Counter(call.name for call in calls)
    assert made["T2V"] == recorded.get("t2v_unet", {"calls": 0})["calls"]
    assert made["inversion"] == recorded.get("t2i_unet:inversion", {"calls": 0})["calls"]
    # One at every step between refinements but the last: not where a refinement throws it away, nor
    # right after one, where the host's own call holds it.
    refined = set(reference.refine)
    between = [s for s in range(2, max(refined, default=0)) if not {s, s + 1} & refined]
    corrections = recorded.get("t2i_unet:pnp", {"calls": 0})["calls"]
    assert made["correction"] == (len(between) if corrections else 0)
    frames = reference.frames
    assert all(call.batch == frames for call in calls if call.name == "correction")


def test_the_plan_is_what_happens(reference: Reference) -> None:
    hook = reference.composition()
    planned = el.plan(
        reference.t2i,
        hook,
        steps=reference.steps,
        frames=reference.frames,
        height=reference.settings["height"],
        width=reference.settings["width"],
        guided=reference.settings["guidance_scale"] > 1,
    )
    with count_calls() as calls:
        reference.run(hook)
    assert planned.hooks == Counter(calls)


def test_the_recipe_is_this_arrangement(reference: Reference) -> None:
    """The named recipe composes the same hook, up to the filter's convention and the groups."""
    t2v, invert, correct = reference.denoisers()
    recipe = videoelevator(
        t2v,
        invert,
        correct,
        steps=reference.steps,
        refine=reference.refine,
        t2v_steps=reference.settings["stable_num"],
        lowpass=el.identity() if not reference.filtered else reference.filter(),
        solver=LCM() if reference.lcm else DDIM(reference.eta),
    )
    latents = reference.run(recipe.hook)
    _close(latents, reference.tensors["out/latents"], "out/latents")


@torch.no_grad()
def test_every_frame_looks_at_the_first_where_the_reference_halves_the_clip(
    reference: Reference,
) -> None:
    """In the inversion the reference anchors each half of a clip apart; by default we do not."""
    _, halved, _ = reference.denoisers()
    whole = replace(halved, anchor_every=None)
    noisy = rearrange(reference.start(), "f c h w -> 1 c f h w")
    level = halved.schedule.at(501)

    def pair(anchor: int, frame: int) -> Tensor:
        return whole(noisy[:, :, [anchor, frame]], level).noise[:, :, 1]

    last, middle = reference.frames - 1, reference.frames // 2
    with CrossFrameAttention().apply(reference.t2i.unet):
        ours, theirs = (one(noisy, level).noise[:, :, last] for one in (whole, halved))
        torch.testing.assert_close(ours, pair(0, last), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(theirs, pair(middle, last), atol=1e-5, rtol=1e-5)
    assert (ours - theirs).abs().max() > 1e-4
