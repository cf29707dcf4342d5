"""What a video pipeline's call accepts: defaults filled in, and what cannot work refused."""

from typing import Any

from torch import Tensor

from elevator.errors import CheckError
from elevator.latent import Latent

__all__ = ["clips_and_negatives", "frame_size", "given_or", "require"]


def given_or(value: float | None, default: float) -> Any:
    """The value, or the default where there is none."""
    return default if value is None else value


def clips_and_negatives(
    prompt: str | list[str] | None,
    negative: str | list[str] | None,
    prompt_embeds: Tensor | None,
) -> tuple[int, list[str]]:
    """How many clips are asked for, and a negative prompt for each.

    Raises:
        CheckError: there is no prompt, or not one negative prompt per clip.
    """
    if prompt is None and prompt_embeds is None:
        raise CheckError(["give a prompt, or prompt_embeds and video_prompt_embeds"])
    if prompt_embeds is not None:
        clips = len(prompt_embeds)
    else:
        clips = len(prompt) if isinstance(prompt, list) else 1
    negatives = [negative or ""] * clips if not isinstance(negative, list) else negative
    if len(negatives) != clips or clips == 0:
        raise CheckError(
            [f"{len(negatives)} negative prompts for {clips} clips; give one, or one per clip"]
        )
    return clips, negatives


def frame_size(
    unet: Any,
    factor: int,
    clips: int,
    height: int | None,
    width: int | None,
    latents: Latent | None,
) -> tuple[int, int]:
    """Height and width in pixels: as asked, of given latents, or the network's own.

    Args:
        unet: the T2I's network.
        factor: pixels along a side of a latent pixel.
        clips: how many clips are asked for.
        height: in pixels, as the caller gave it.
        width: as `height`.
        latents: the initial noise, if the caller gave it.

    Raises:
        CheckError: the latents have another size, batch or number of channels.
    """
    own, channels = unet.config.sample_size, unet.config.in_channels
    sides = [own, own] if isinstance(own, int) else list(own)
    if latents is not None:
        b, c, _, *sides = latents.shape
        sizes = zip((height, width), sides, strict=True)
        asked_otherwise = any(size not in (None, side * factor) for size, side in sizes)
        if b != clips or c != channels or asked_otherwise:
            raise CheckError(
                [
                    f"latents of shape {tuple(latents.shape)} do not fit {clips} clips of "
                    f"{channels} channels, height {height} and width {width}; their axes are "
                    f"b c f h w, {factor} pixels to a latent pixel"
                ]
            )
    return given_or(height, sides[0] * factor), given_or(width, sides[1] * factor)


def require(
    size: tuple[int, int],
    multiple: int,
    *,
    frames: int,
    steps: int,
    shared_noise: float,
    output_type: str,
    decode_chunk_size: int | None,
    at_once: int,
    longest: int | None,
) -> None:
    """Refuse arguments that cannot work, all at once.

    Args:
        size: height and width in pixels.
        multiple: what both must be multiples of.
        frames: frames per clip.
        steps: sampling steps.
        shared_noise: weight of the initial noise all frames share.
        output_type: form of the result.
        decode_chunk_size: frames decoded at once; None for all.
        at_once: frames the T2V sees at once.
        longest: frames the T2V's motion module has positions for, if it has such a limit.

    Raises:
        CheckError: height or width is no positive multiple of `multiple`, or a number lies out of
            its range.
    """
    problems = []
    for name, side in zip(("height", "width"), size, strict=True):
        if side < multiple or side % multiple:
            problems.append(
                f"{name} is {side}, but must be a positive multiple of {multiple}; "
                f"try {max(1, round(side / multiple)) * multiple}"
            )
    for name, count in (("num_frames", frames), ("num_inference_steps", steps)):
        if count < 1:
            problems.append(f"{name} is {count}, but must be at least 1")
    if longest is not None and at_once > longest:
        problems.append(
            f"num_frames is {frames}, but the T2V's motion module knows {longest} frames at most; "
            f"give video_patches=[FrameWindows({longest}, stride={max(1, longest // 4)})]"
        )
    if decode_chunk_size is not None and decode_chunk_size < 1:
        problems.append(f"decode_chunk_size is {decode_chunk_size}, but must be at least 1")
    if shared_noise < 0:
        problems.append(f"shared_noise is {shared_noise}, but must be 0 or more")
    if output_type not in ("pil", "np", "pt", "latent"):
        problems.append(f"output_type {output_type!r} is unknown; use pil, np, pt or latent")
    if problems:
        raise CheckError(problems)
