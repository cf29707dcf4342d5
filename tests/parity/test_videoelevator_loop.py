"""The composition against a plain loop, for settings beyond the recorded cases."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.cases import COMMITTED
from tests.parity.test_videoelevator_e2e import Reference
from tests.reference.videoelevator_loop import record

MODELS = COMMITTED / "videoelevator" / "models"
GAUSSIAN = {"method": "gaussian", "d_s": 1.0, "d_t": 0.4}
BASE: dict[str, Any] = {
    "kind": "zeroscope",
    "num_inference_steps": 6,
    "video_length": 4,
    "stable_steps": [5, 3],
    "stable_num": 2,
    "filter": GAUSSIAN,
    "alpha": 1.0,
    "guidance_scale": 7.5,
    "video_guidance_scale": 5.0,
    "height": 16,
    "width": 16,
    "extra": {},
    "t2i": {},
    "t2v": {},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "eta": {"extra": {"eta": 0.3}},
    "eta_without_correction": {"extra": {"eta": 0.7, "inversion_name": "none"}},
    "v_prediction": {"t2i": {"prediction_type": "v_prediction"}, "t2v": "t2i"},
    "mixed_predictions": {"t2v": {"prediction_type": "v_prediction"}},
    "other_schedule": {
        "t2v": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
        "stable_steps": [6, 5, 3, 2],
    },
    "no_correction_no_filter": {
        "extra": {"inversion_name": "none"},
        "filter": None,
        "stable_steps": [4],
        "stable_num": 1,
    },
    "butterworth_not_square": {
        "video_length": 6,
        "filter": {"method": "butterworth", "n": 4, "d_s": 0.25, "d_t": 0.25},
        "height": 24,
        "width": 40,
        "guidance_scale": 3.0,
    },
    "box_odd": {"filter": {"method": "box", "d_s": 0.5, "d_t": 0.5}, "height": 24, "width": 40},
    "every_step": {"video_length": 2, "stable_steps": [6, 5, 4, 3, 2, 1], "stable_num": 1},
    "rising_order": {"stable_steps": [3, 5]},
    "beyond_the_run": {"stable_steps": [9, 5, 3]},
    "no_guidance_no_refinement": {"guidance_scale": 1.0, "stable_steps": []},
    "consistency": {
        "kind": "animatelcm",
        "stable_steps": [5, 3, 2],
        "video_guidance_scale": 2.0,
        "t2v": {"beta_schedule": "linear", "original_inference_steps": 50},
    },
    "consistency_eta": {"kind": "animatelcm", "extra": {"eta": 0.5}},
}


def _pipelines(settings: dict[str, Any]) -> tuple[Any, Any]:
    """Networks and schedulers as the loop wants them; the case itself carries the schedulers."""
    from types import SimpleNamespace

    from diffusers import (
        DDIMScheduler,
        LCMScheduler,
        UNet2DConditionModel,
        UNet3DConditionModel,
        UNetMotionModel,
    )

    common = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    motion = settings["kind"] == "animatelcm"
    own = settings["t2i"] if settings["t2v"] == "t2i" else settings["t2v"]
    video = UNetMotionModel if motion else UNet3DConditionModel
    folder = "t2v_unet_motion" if motion else "t2v_unet3d"
    return (
        SimpleNamespace(
            unet=UNet2DConditionModel.from_pretrained(MODELS / "t2i_unet"),
            scheduler=DDIMScheduler(**(common | settings["t2i"])),
        ),
        SimpleNamespace(
            unet=video.from_pretrained(MODELS / folder),
            scheduler=(LCMScheduler if motion else DDIMScheduler)(**(common | own)),
        ),
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_the_composition_is_the_loop(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BASE | SETTINGS[name]
    os.symlink(MODELS, tmp_path / "models")
    case = tmp_path / "e2e" / name
    record(case, settings, *_pipelines(settings))

    reference = Reference(case)
    draws = iter(reference.host_draws)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddim.randn_tensor", lambda *args, **kwargs: next(draws)
    )
    latents = reference.run(reference.composition())
    torch.testing.assert_close(latents, reference.tensors["out/latents"], atol=5e-4, rtol=1e-4)
    assert not list(draws)
