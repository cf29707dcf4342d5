"""`VideoUpscalePipeline` in the published arrangement, against whole recorded runs.

Recorded runs hold every random draw, the embeddings and the flow, so neither a generator, a
tokenizer nor a flow estimator is needed. None is small enough to be committed: without
`--goldens DIR` there is nothing to compare here. Tolerances are those of the recordings' README.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elevator.filters import Flow
from elevator.models import RAFT, TemporalUNet, VideoVAE
from elevator.noise import RecordedNoise
from elevator.pipelines.video_upscale import VideoUpscalePipeline
from tests.parity.cases import COMMITTED, folder_of, keys_of, offer, read_json, read_tensors
from tests.parity.recipe import draw


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = folder_of(metafunc.config, "upscale_a_video")
    there = (root / "index.json").exists() and keys_of(root / "unet_tiny_weights")
    index = read_json(root / "index") if there else {}
    for fixture, start in (("case", "13_pipeline"), ("script", "14_cli")):
        if fixture in metafunc.fixturenames:
            cases = [name for name in index if name.startswith(start) and keys_of(root / name)]
            offer(metafunc, fixture, cases, str)


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest) -> Path:
    return folder_of(request.config, "upscale_a_video")


def pipeline(root: Path, facts: dict[str, Any]) -> Any:
    from diffusers import DDIMScheduler, DDPMScheduler

    def weights(name: str) -> dict[str, Tensor]:
        return {k: v.float() for k, v in read_tensors(root / f"{name}_tiny_weights").items()}

    vae = f"vae_{facts['vae']}"
    pipe = VideoUpscalePipeline(
        vae=VideoVAE.from_published(weights(vae), read_json(root / f"{vae}_tiny_config")),
        text_encoder=None,
        tokenizer=None,
        unet=TemporalUNet.from_published(weights("unet"), read_json(root / "unet_tiny_config")),
        low_res_scheduler=DDPMScheduler(**facts["low_res_scheduler"]),
        scheduler=DDIMScheduler(**facts["scheduler"]),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_run(root: Path, case: str) -> None:
    facts, tensors = read_json(root / "index")[case], read_tensors(root / case)
    noise = {"low_res": tensors["noise_lowres"], "latents": tensors["noise_latents"]}
    flow = None
    if "flows_forward" in tensors:
        flow = Flow(tensors["flows_forward"], tensors["flows_backward"])
    text = tensors["prompt_embeds_as_fed_to_unet"]
    steps: list[Tensor] = []

    def keep(pipe: Any, index: int, timestep: Any, told: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(told["latents"])
        return {}

    def run(output_type: str) -> Tensor:
        frames = pipe(
            tensors["image"],
            prompt_embeds=text[-1:],
            negative_prompt_embeds=text[:1] if len(text) > 1 else None,
            guidance_scale=float(facts["guidance_scale"]),
            noise_level=facts["noise_level"],
            num_inference_steps=facts["num_inference_steps"],
            propagate=facts["propagation_steps"],
            flow=flow,
            strength=float(facts["w_lr"]),
            arrangement="published",
            noise=RecordedNoise({(0, name): drawn for name, drawn in noise.items()}),
            output_type=output_type,
            callback_on_step_end=keep,
        ).frames
        assert isinstance(frames, Tensor)
        return frames

    pipe = pipeline(root, facts)
    video = 2 * run("pt").transpose(1, 2) - 1
    assert pipe.scheduler.timesteps.tolist() == tensors["timesteps"].tolist()
    for index, latents in enumerate(steps):
        close(latents, tensors[f"step{index}.latents"], 1e-3)
    assert len(steps) == facts["num_inference_steps"]
    close(steps[-1], tensors["latents_out"], 1e-3)
    close(video, tensors["video_out"], 2e-3)


def test_the_script(root: Path, script: str) -> None:
    """From bytes to colours: RAFT, noise of generator 10, tiles, the conditioned autoencoder.

    RAFT with random weights is chaotic, so single pixels may be warped from elsewhere: the mean
    error is held to the tolerance.
    """
    index, tensors = read_json(root / "index"), read_tensors(root / script)
    like = index["13_pipeline_a_8f"]  # its schedulers and its prompts are the script's
    pipe = pipeline(root, like | {"vae": "video"})
    text = read_tensors(root / "13_pipeline_a_8f")["prompt_embeds_as_fed_to_unet"]
    low = (tensors["input_uint8_tchw"].float() / 255 - 0.5) * 2
    shapes = read_json(COMMITTED / "upscale_a_video" / "keys_raft_things")
    raft = RAFT.from_published(
        {name: draw(name.removeprefix("module."), shapes[name], 400) for name in shapes}
    )
    made = pipe(
        low.transpose(0, 1)[None],
        prompt_embeds=text[1:],
        negative_prompt_embeds=text[:1],
        guidance_scale=6.0,
        noise_level=120,
        num_inference_steps=2,
        propagate=(0, 1),
        flow=raft,
        colour="adain",
        arrangement="published",
        generator=torch.Generator().manual_seed(10),
        output_type="pt",
    ).frames
    crop = 2 * made[0, :, :, 236:276, 236:276] - 1
    assert (crop - tensors["output_crop"].clamp(-1, 1)).abs().mean() < 5e-3


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)
