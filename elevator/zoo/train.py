"""How the checkpoints of the zoo were made: `python -m elevator.zoo.train NAME`.

The order is vae, t2i-early, t2i-middle, t2i-late, t2i-last, t2i, then t2i-ink and t2i-mosaic;
t2v-start, t2v-early, t2v, then t2v-mild; t2v-turned, an autoencoder that learns from the first;
upscale-x4, then upscale-x2; after t2i, upscaler-vae, upscaler-early, upscaler-still,
upscaler-decoder, then upscaler; and recogniser, which needs none of them. For t2v and the two
before it, `torchrun --nproc_per_node 2 -m elevator.zoo.train t2v` shares the work out between two
processes; the losses are the same.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from elevator import world
from elevator.errors import CheckError
from elevator.zoo import MODELS, Model, networks, path, pipelines, tokenizer
from elevator.zoo.decoder import Sharpening
from elevator.zoo.diffusion import Filming, Framing, Painting, Parts, renew_words
from elevator.zoo.loop import Average, Progress, Rates, Recipe, Task, fit, leads, report
from elevator.zoo.recogniser import Recogniser, Recognising
from elevator.zoo.turned import train_turned
from elevator.zoo.upscalers import UPSCALERS, train_upscaler
from elevator.zoo.vae import Autoencoding, Stage, save

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline

__all__ = ["NAMES", "RECIPES", "STAGES", "STYLES", "UPSCALERS", "Recipe", "train"]

STAGES = (
    Stage(1800, 16, Rates(2e-3, part=0.75), colour=1.0),
    Stage(200, 16, Rates(1.5e-3, part=0.15, average=0.99)),
    Stage(2000, 24, Rates(2e-3, average=0.99), crop=32),
    Stage(1200, 16, Rates(1.5e-3, average=0.99), joint=0.6),
)
"""Training of the autoencoder: whole frames, in the end with weight on their colours, then crops of
the objects, where it learns fastest, then whole frames again."""
JUDGE = (2500, 16, Rates(2e-3, average=0.99))
"""Training of the recogniser: steps, clips a step, rates."""
JOINT = 0.16
"""Part of the early T2I's training in which the text encoder learns; it rests until `HEARING`."""
UNHEARD = ("checkered",)
"""Words that the text encoder has not learnt by then; in the late training of the T2I it does."""
HEARING = ("t2i-late", "t2i-last")
"""Trainings of the T2I in which the text encoder learns again, from first to last."""


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "t2i-early": Recipe(7500, 16, Rates(1.5e-3), "vae"),
        "t2i-middle": Recipe(8000, 16, Rates(1.2e-3), "t2i-early", seed=1),
        "t2i-late": Recipe(5000, 16, Rates(1.2e-3), "t2i-middle", seed=2, lean=0.7),
        "t2i-last": Recipe(5000, 16, Rates(1.2e-3), "t2i-late", seed=3, lean=0.7),
        "t2i": Recipe(1500, 16, Rates(8e-4, average=0.99, clip=5.0), "t2i-last", seed=4),
        "t2v-start": Recipe(900, 16, Rates(1e-3), "t2i-early", shards=2),
        "t2v-early": Recipe(1400, 4, Rates(1.2e-3), "t2v-start", shards=2),
        "t2v": Recipe(3600, 4, Rates(1.2e-3), "t2v-early", shards=2),
        "t2v-mild": Recipe(600, 4, Rates(1e-3, average=0.99), "t2v"),
        "t2i-ink": Recipe(2500, 16, Rates(1e-3, average=0.99), "t2i"),
        "t2i-mosaic": Recipe(1500, 16, Rates(1e-3, average=0.99), "t2i"),
    }
)
STYLES: Mapping[str, tuple[Callable[[Tensor], Tensor], int | None]] = MappingProxyType(
    {"t2i-ink": (world.ink, 16), "t2i-mosaic": (world.mosaic, None)}
)
"""The personalised models: what stills are made to look like, and the rank of the LoRA that learns
it; None trains the whole U-Net."""
NAMES = ("vae", "recogniser", *RECIPES, "t2v-turned", *UPSCALERS)
"""All that can be trained."""
MILD_RANK = 16
"""Rank of the LoRA that teaches the T2V clips degraded by `world.MILD`."""


def train(
    name: str,
    steps: int | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    resume: bool = True,
    progress: Callable[[Progress], None] = report,
    *,
    batch: int | None = None,
    seed: int = 0,
    save_every: float = 60.0,
) -> Path:
    """Train one of the zoo's models and save it in diffusers' format.

    Args:
        name: one of `NAMES`.
        steps: steps in all; by default as many as the committed weights had.
        out: folder for checkpoints and results, `./zoo` by default. What a training needs of
            another is looked for there first, then among the committed weights.
        device: where to train; CUDA when there is one.
        resume: go on from the checkpoint in `out`, if there is one.
        progress: called after every step; prints a line now and then by default.
        batch: stills or clips a step; by default as for the committed weights.
        seed: of weights, data and noise.
        save_every: seconds between checkpoints.

    Returns:
        The folder of the result, `out/name`.
    """
    if name not in NAMES:
        raise CheckError([f"train got name={name!r}; use one of: {', '.join(NAMES)}"])
    folder = Path(out or "zoo")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def run(
        task: Task, rates: Rates, steps: int, seed: int, label: str, shards: int = 1
    ) -> Average:
        return fit(
            label,
            task,
            rates,
            steps=steps,
            seed=seed,
            checkpoint=folder / f"{label}.checkpoint.pt",
            shards=shards,
            resume=resume,
            save_every=save_every,
            progress=progress,
        )

    torch.manual_seed(seed)
    if name == "vae":
        return _train_vae(run, folder, where, steps, batch, seed)
    if name == "t2v-turned":
        return train_turned(run, folder, _autoencoder(folder).to(where), steps, batch, seed)
    if name == "recogniser":
        judge = Recogniser().to(where)
        reading = Recognising(judge, batch or JUDGE[1])
        judge.load_state_dict(run(reading, JUDGE[2], steps or JUDGE[0], seed, name))
        judge.to("cpu", torch.float16).save_pretrained(folder / name)
        return folder / name
    if name in UPSCALERS:
        return train_upscaler(name, run, folder, where, steps, batch, seed)
    recipe = RECIPES[name]
    steps = steps or recipe.steps
    task = _task(name, folder, where, steps, batch or recipe.batch)
    average = run(task, recipe.rates, steps, seed + recipe.seed, name, recipe.shards)
    if not leads():
        return folder / name
    task.weights.load_state_dict(average)
    if isinstance(task, Sharpening):
        parts, unet = task.parts, task.painter
    else:
        # Styles decode as the T2I does, whose decoder learnt theirs; all others as the autoencoder.
        vae = task.parts.vae if name in STYLES else _autoencoder(folder)
        parts, unet = replace(task.parts, vae=vae), task.weights["unet"]
    model = MODELS.get(name, Model())
    if not model.file:
        pipelines.write(folder / name, parts, unet)
    elif model.lora:
        pipelines.write_lora(folder / name / model.file, unet)
    else:
        pipelines.write_file(folder / name / model.file, parts, unet)
    return folder / name


def _train_vae(
    run: Callable[[Task, Rates, int, int, str], Average],
    folder: Path,
    device: torch.device,
    steps: int | None,
    batch: int | None,
    seed: int,
) -> Path:
    """Train the autoencoder stage by stage; `steps` are shared out as in `STAGES`."""
    share = steps / sum(stage.steps for stage in STAGES) if steps else 1.0
    weights: dict[str, Tensor] = {}
    average: Average = {}
    for i, stage in enumerate(STAGES):
        stage = replace(stage, steps=max(1, round(share * stage.steps)), batch=batch or stage.batch)
        task = Autoencoding(
            stage, device, on_frozen=lambda early: save(early, folder / "vae-start", seed)
        )
        if weights:
            task.weights.load_state_dict(weights)
        average = run(task, stage.rates, stage.steps, seed + i, f"vae-{i + 1}")
        weights = task.weights.state_dict()
    trained = networks.vae()
    trained.load_state_dict(average)
    save(trained.to(device), folder / "vae", seed)
    return folder / "vae"


def _task(
    name: str, folder: Path, device: torch.device, steps: int, batch: int
) -> Filming | Framing | Painting | Sharpening:
    """The training of a diffusion model, or of the T2I's decoder, from its start."""
    parts, painter = _start(name, folder, device)
    if name == "t2i":
        return Sharpening(parts, painter, batch)
    if name == "t2v-start":
        return Framing(parts, networks.unet2d(video=True).to(device), painter, batch)
    if name in ("t2v-early", "t2v"):
        return Filming(parts, networks.unet3d().to(device), painter, batch)
    if name == "t2v-mild":
        unet = networks.unet3d().to(device)
        return Filming(parts, unet, painter, batch, strength=world.MILD, rank=MILD_RANK)
    if name in STYLES:
        look, rank = STYLES[name]
        if rank is not None:
            networks.add_lora(painter, rank)
        return Painting(parts, painter, batch, style=look)
    joint = max(1, round(JOINT * steps)) if name == "t2i-early" else 0
    if name == "t2i-late":
        renew_words(parts, UNHEARD)
    if name in HEARING:
        joint = steps
    return Painting(parts, painter, batch, joint=joint, lean=RECIPES[name].lean)


def _start(name: str, folder: Path, device: torch.device) -> tuple[Parts, torch.nn.Module]:
    """The frozen parts, and the image U-Net to start from."""
    from transformers import CLIPTokenizer

    if name != "t2i-early":
        pipe = _pipeline(RECIPES[name].needs, folder).to(device)
        pipe.vae.requires_grad_(False)
        pipe.text_encoder.requires_grad_(name in HEARING or name.startswith("t2v"))
        return Parts(pipe.vae, pipe.text_encoder, pipe.tokenizer), pipe.unet.train()
    tokenizer.write(folder / "tokenizer")
    words = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = networks.text_encoder(
        len(words), words.bos_token_id, words.eos_token_id, words.model_max_length
    )
    vae = _autoencoder(folder).to(device).requires_grad_(False)
    return Parts(vae, text.to(device), words), networks.unet2d().to(device)


def _autoencoder(folder: Path) -> AutoencoderKL:
    """The finished autoencoder, or else an early one, or the committed one: all encode alike."""
    from diffusers import AutoencoderKL

    sources = (folder / "vae", folder / "vae-start", path("t2v") / "vae")
    source = next((s for s in sources if s.exists()), sources[-1])
    return AutoencoderKL.from_pretrained(source, torch_dtype=torch.float32)


def _pipeline(needs: str, folder: Path) -> DiffusionPipeline:
    """The pipeline a training starts from: made here before, or else a committed one."""
    source = folder / needs
    if source.exists():
        return pipelines.read(source)
    if needs not in MODELS:
        raise CheckError([f"there is no {source} to start from; train {needs} first"])
    return pipelines.read(path(needs))


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(prog="python -m elevator.zoo.train", description=__doc__)
    parser.add_argument("name", choices=NAMES, help="what to train")
    parser.add_argument("--steps", type=int, help="steps in all")
    parser.add_argument("--batch", type=int, help="stills or clips a step")
    parser.add_argument("--out", type=Path, help="folder for checkpoints and results (./zoo)")
    parser.add_argument("--device", help="cuda, cpu, ...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="ignore an existing checkpoint")
    given = parser.parse_args()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        torch.distributed.init_process_group()
    train(
        given.name,
        given.steps,
        given.out,
        given.device,
        not given.fresh,
        batch=given.batch,
        seed=given.seed,
    )


if __name__ == "__main__":
    main()
