"""Training of an upscaler's temporal layers on clips of one's own.

Spatial layers stand still: what single frames look like stays as it was learnt, and only what was
put between them for time learns how frames follow one another (Upscale-A-Video; Zhou et al. 2024,
arXiv 2312.06640, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from elevator import world
from elevator.errors import CheckError
from elevator.zoo import path, pipelines
from elevator.zoo.loop import Progress, Rates, fit, leads, report
from elevator.zoo.video_upscaling import FACTOR, Examples, Steadying, Upscaling

if TYPE_CHECKING:
    from elevator.video.clip import Clip

__all__ = ["OwnClips", "train_temporal"]

ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".ts", ".gif", ".webp")
"""What is taken for a clip; and folders of pictures."""


@final
@dataclass(frozen=True)
class OwnClips:
    """Random cuts of the clips in a folder, reduced and worn as footage is.

    A file `NAME.txt` beside a clip `NAME.mp4` holds its caption; others have none. Clips are
    decoded from their beginning, so cut long ones into pieces first.

    Attributes:
        clips: the clips' files or folders.
    """

    clips: tuple[Path, ...]

    @classmethod
    def of(cls, folder: str | Path, size: int = 1) -> OwnClips:
        """The clips of a folder and of the folders in it, each of which is opened once.

        Args:
            folder: where to look.
            size: height and width of the cuts to come.

        Raises:
            CheckError: no such folder, no clip in it, or clips that cannot be read or are smaller
                than the cuts: all of them are named.
        """
        root = Path(folder)
        if not root.is_dir():
            raise CheckError([f"no folder {root}; give one with clips in it"])
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
        pictures = (".png", ".jpg", ".jpeg")
        kept = {p.parent for p in root.rglob("*") if p.suffix.lower() in pictures}
        clips = (*files, *sorted(kept))
        if not clips:
            known = ", ".join(ENDINGS)
            raise CheckError(
                [f"no clip in {root}; put files that end in {known}, or folders of pictures, there"]
            )
        problems = [problem for clip in clips for problem in _problems(clip, size)]
        if problems:
            raise CheckError(problems)
        return cls(clips)

    def __call__(self, count: int, frames: int, size: int, generator: torch.Generator) -> Examples:
        """Cuts of `frames` frames and `size` by `size` pixels, half of them mirrored."""
        chosen = torch.randint(len(self.clips), (count,), generator=generator).tolist()
        sharp = torch.stack([_cut(self.clips[i], frames, size, generator) for i in chosen])
        seed = int(torch.randint(2**40, (), generator=generator))
        captions = [_caption(self.clips[i]) for i in chosen]
        return Examples(sharp, world.shrink(sharp, FACTOR, seed=seed), captions)


def _problems(file: Path, size: int) -> Iterator[str]:
    """Why nothing can be cut out of a clip."""
    from elevator.video.io import VideoError
    from elevator.video.reader import open_video

    try:
        with open_video(file) as clip:
            width, height = clip.width, clip.height
    except VideoError as error:
        yield f"{error}, or take it out of the folder"
        return
    if min(height, width) < size:
        yield (
            f"{file} is {width}x{height}, and {size}x{size} pixels are to be cut out of it; remove "
            "it, or ask for smaller cuts (--size)"
        )


def _caption(clip: Path) -> str:
    file = clip.with_suffix(".txt")
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def _cut(
    file: Path, frames: int, size: int, generator: torch.Generator
) -> Float[Tensor, "3 f h w"]:
    """A random part of a clip, in time and space; of one that is too short the last frame stays."""
    from elevator.video.reader import open_video

    when, down, across, mirrored = torch.rand(4, generator=generator).tolist()
    with open_video(file) as clip:
        start = int(when * (max(0, (clip.expected or 0) - frames) + 1))
        seen = _read(clip, start, frames) or _read(clip, 0, frames)  # fewer than it announces
        top, left = int(down * (clip.height - size + 1)), int(across * (clip.width - size + 1))
    cut = np.stack([pixels[top : top + size, left : left + size, :3] for pixels in seen])
    most = np.iinfo(cut.dtype).max
    whole = torch.from_numpy(cut.astype(np.float32) / most).permute(3, 0, 1, 2)
    short = frames - whole.shape[1]
    if short:
        whole = torch.cat([whole, whole[:, -1:].expand(-1, short, -1, -1)], 1)
    return whole.flip(-1) if mirrored < 0.5 else whole


def _read(clip: Clip, start: int, frames: int) -> list[Any]:
    return [frame.pixels for frame in islice(clip.frames(start), frames)]


def train_temporal(
    data: str | Path,
    out: str | Path,
    *,
    model: str | Path | None = None,
    steps: int = 2000,
    batch: int = 1,
    frames: int = 8,
    size: int = 128,
    rate: float = 1e-4,
    shards: int = 1,
    seed: int = 0,
    device: str | torch.device | None = None,
    resume: bool = True,
    save_every: float = 60.0,
    progress: Callable[[Progress], None] = report,
) -> Path:
    """Train the temporal layers of an upscaler and save the whole as a pipeline folder.

    On a GPU networks compute in bfloat16. Weights and their moving average are float32 and the
    average is what is saved, in float16. A training that was cut goes on where it was.

    Args:
        data: folder of clips (`OwnClips`).
        out: folder for the checkpoint and the result.
        model: pipeline folder to start from; the zoo's `upscaler` if left out.
        steps: steps in all.
        batch: clips a step and shard.
        frames: frames of a clip.
        size: height and width of the cuts, a multiple of eight.
        rate: highest learning rate.
        shards: batches a step, shared out among the processes of `torch.distributed`.
        seed: of everything that is drawn.
        device: where to train; CUDA when there is one.
        resume: go on from the checkpoint in `out`, if there is one.
        save_every: seconds between checkpoints.
        progress: called after every step.

    Returns:
        The folder of the result, `out/upscaler`.

    Raises:
        CheckError: no clips, clips that cannot be read or are smaller than the cuts, or a size that
            does not fit.
    """
    if size < 8 or size % 8:
        raise CheckError([f"size must be a multiple of 8, at least 8, got {size}"])
    clips, folder = OwnClips.of(data, size), Path(out)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    pipe: Any = pipelines.read_upscaler(Path(model) if model else path("upscaler")).to(where)
    for module in (pipe.vae, pipe.text_encoder):
        module.requires_grad_(False)
    parts = Upscaling(
        pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.scheduler, pipe.low_res_scheduler
    )
    task = Steadying(
        parts, pipe.unet.train(), batch, size=size, frames=frames, seed=seed, source=clips
    )
    average = fit(
        "temporal",
        task,
        Rates(rate, average=0.999),
        steps=steps,
        seed=seed,
        checkpoint=folder / "temporal.checkpoint.pt",
        shards=shards,
        resume=resume,
        save_every=save_every,
        progress=progress,
    )
    if leads():
        pipe.unet.load_state_dict(average)
        pipelines.write_upscaler(folder / "upscaler", parts, pipe.unet, pipe.config.preset)
    return folder / "upscaler"
