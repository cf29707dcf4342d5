"""A page that shows what the built-in models and VideoElevator do: one HTML file, nothing else.

Clips of held-out captions side by side, the spectrum over time before and after the low-pass
filter, and quality against cost. All of it is sampled anew; the numbers come with their number of
captions, and `benchmarks/quality_videoelevator.py` has more of both.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from elevator import metrics, world
from elevator.combine import chain, stateless
from elevator.errors import CheckError, ElevatorError
from elevator.filters import LowPass
from elevator.zoo import load_recogniser
from elevator.zoo.recogniser import Recogniser, shares
from elevator.zoo.sampling import NUMBERS, compare, elevate, film, in_style, pair

if TYPE_CHECKING:
    from elevator.hook import Step
    from elevator.latent import Latent
    from elevator.pipelines.video_elevator import VideoElevatorPipeline
    from elevator.recipes import Preset

__all__ = ["write"]

SCALE, MILLISECONDS = 2, 125
"""How much clips are enlarged, and how long a frame lasts."""
WAYS = ("shared noise", "inverted", "inverted fast")
"""How refined frames go back to noise."""
MEASURED = 4
"""Captions on which quality is measured against cost."""


class Row(NamedTuple):
    """Clips of one caption, by label."""

    caption: str
    clips: dict[str, Float[Tensor, "f c h w"]]


class Point(NamedTuple):
    """One arrangement: the U-Nets' frame-forwards per frame, and means over the captions."""

    label: str
    cost: float
    sharpness: float
    change: float
    words: float
    motion: float


@dataclass
class Spectrum:
    """Mean power per frequency over time, before and after the filter, of what passes by."""

    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)

    def around(self, lowpass: LowPass) -> Any:
        """A hook that filters, and keeps both spectra."""
        return chain(
            stateless(self._keeping(self.before)), lowpass, stateless(self._keeping(self.after))
        )

    @staticmethod
    def _keeping(kept: list[Tensor]) -> Callable[[Latent, Step], Latent]:
        def keep(clean: Latent, step: Step) -> Latent:
            kept.append(torch.fft.rfft(clean, dim=2).abs().square().mean((0, 1, 3, 4)).cpu())
            return clean

        return keep


def write(
    out: str | Path,
    prompts: int = 12,
    seed: int = 0,
    *,
    numbers: Preset = NUMBERS,
    progress: Callable[[str], None] = print,
) -> Path:
    """Sample, measure, draw and write the page.

    Args:
        out: the `.html` file.
        prompts: captions shown, at least one; cost and quality are measured on the first four.
        seed: of the captions and of the noise of the first one.
        numbers: the arrangement.
        progress: told what is being done.

    Returns:
        The file.

    Raises:
        CheckError: no caption is asked for.
        ElevatorError: the file cannot be written, or matplotlib, which draws the plots, is not
            installed.
    """
    if prompts < 1:
        raise CheckError([f"the report got prompts={prompts}; it shows at least one caption"])
    _require_matplotlib()
    file = Path(out)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        raise ElevatorError(f"{file} cannot be written ({error.strerror}); name another") from error
    scenes = world.draw(prompts, seed=seed, split="held-out")
    plain, spectrum = pair(), Spectrum()
    styles = {style: pair(f"t2i-{style}") for style in ("ink", "mosaic")}
    rows = []
    with torch.no_grad():
        for index, scene in enumerate(scenes):
            caption = scene.caption()
            progress(f"{index + 1} of {prompts}: {caption}")
            clips = compare(plain, styles, caption, seed + index, numbers=numbers)
            rows.append(Row(caption, clips))
        progress("the filter's spectrum")
        lowpass = LowPass("gaussian", temporal=numbers.temporal, spatial=numbers.spatial)
        hook = spectrum.around(lowpass)
        elevate(plain, scenes[0].caption(), seed, numbers=numbers, lowpass=hook)
        points = list(_points(plain, scenes[:MEASURED], seed, numbers, progress))
    page = _PAGE.substitute(
        rows="\n".join(map(_row, rows)),
        labels="".join(f"<th>{html.escape(label)}</th>" for label in rows[0].clips),
        settings=html.escape(str(numbers)),
        styled=html.escape(str(in_style(numbers))),
        seed=seed,
        measured=min(MEASURED, prompts),
        averages=_averages(plain, numbers),
        table="\n".join(map(_line, points)),
        spectrum=_spectrum_plot(spectrum),
        cost=_cost_plot(points),
    )
    file.write_text(page, encoding="utf-8")
    return file


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ElevatorError("the plots need matplotlib: pip install 'elevator[report]'") from error


# --- sampling -------------------------------------------------------------------------------------


def _points(
    pipe: VideoElevatorPipeline,
    scenes: Sequence[world.Scene],
    seed: int,
    numbers: Preset,
    progress: Callable[[str], None],
) -> Iterator[Point]:
    """The truth and the T2V, then VideoElevator with fewer and more refinements."""
    judge, captions = load_recogniser(), [scene.caption() for scene in scenes]
    truth = world.render(scenes, frames=numbers.frames, seed=seed)
    yield _point("truth", 0, truth, judge, scenes)
    alone = [film(pipe, text, seed + i, numbers=numbers) for i, text in enumerate(captions)]
    yield _point("T2V", 2 * numbers.steps, torch.stack(alone), judge, scenes)
    for way in WAYS:
        own = numbers if way == "shared noise" else replace(numbers, fresh_noise=None, steady=())
        for points in _refinements(numbers):
            label = f"{len(points)}, {way}"
            progress(f"quality and cost: {label}")
            changes: dict[str, Any] = {"refine": points, "fast": way == "inverted fast"}
            clips = [
                elevate(pipe, text, seed + i, numbers=own, **changes)
                for i, text in enumerate(captions)
            ]
            # The U-Nets' work alone; averages cost frames of the autoencoder besides.
            counted = replace(own, steady=())
            cost = pipe.plan(captions[0], preset=counted, **changes).frame_forwards()
            yield _point(label, cost / numbers.frames, torch.stack(clips), judge, scenes)


def _refinements(numbers: Preset) -> Iterator[tuple[int, ...]]:
    """The first of the preset's refinement points, the first two, ..., and one more than all."""
    points = numbers.refine
    more = points[-1] - max(1, (points[0] - points[-1]) // max(1, len(points) - 1))
    for count in range(1, len(points) + 1):
        yield points[:count]
    if more >= 1:
        yield (*points, more)


def _point(
    label: str,
    cost: float,
    clips: Float[Tensor, "b f c h w"],
    judge: Recogniser,
    scenes: Sequence[world.Scene],
) -> Point:
    right = shares(judge(clips), scenes)
    return Point(
        label,
        cost,
        float(metrics.sharpness(clips).mean()),
        sum(metrics.appearance_change(clip) for clip in clips) / len(clips),
        float(torch.stack([right[kind] for kind in ("texture", "colour", "shape")]).mean()),
        float(right["motion"].mean()),
    )


def _averages(pipe: VideoElevatorPipeline, numbers: Preset) -> str:
    """Frames through the autoencoder for averages along the motion, over those of a clip."""
    with_them, without = (
        pipe.plan("", preset=own).frame_forwards() for own in (numbers, replace(numbers, steady=()))
    )
    return f"{(with_them - without) / numbers.frames:g}"


# --- the page -------------------------------------------------------------------------------------


def _row(row: Row) -> str:
    cells = "".join(
        f"<td>{_moving(clip, f'{label}: {row.caption}')}</td>" for label, clip in row.clips.items()
    )
    return f"<tr><th>{html.escape(row.caption)}</th>{cells}</tr>"


def _moving(clip: Float[Tensor, "f c h w"], told: str) -> str:
    """A clip as an image that moves, inside the page; `told` to those who do not see it."""
    frames = (clip.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    first, *others = (Image.fromarray(frame) for frame in frames)
    file = io.BytesIO()
    first.save(
        file, "webp", save_all=True, append_images=others, duration=MILLISECONDS, loop=0, quality=90
    )
    data = base64.b64encode(file.getvalue()).decode()
    height, width = (SCALE * side for side in clip.shape[-2:])
    size = f'width="{width}" height="{height}"'
    return f'<img {size} alt="{html.escape(told)}" src="data:image/webp;base64,{data}">'


def _line(point: Point) -> str:
    cells = [f"{point.cost:.0f}", f"{point.sharpness:.3f}", f"{point.change:.3f}"]
    cells += [f"{point.words:.2f}", f"{point.motion:.2f}"]
    return f"<tr><th>{point.label}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _spectrum_plot(spectrum: Spectrum) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for kept, mark, label in ((spectrum.before, "o-", "before"), (spectrum.after, "s-", "after")):
        if kept:  # the filter runs at every refinement but the last
            power = torch.stack(kept).mean(0)
            axes.semilogy(torch.linspace(0, 1, len(power)).tolist(), power, mark, label=label)
    axes.set(xlabel="frequency over time (Nyquist = 1)", ylabel="power of the clean estimate")
    axes.legend()
    return _svg(figure)


def _cost_plot(points: Sequence[Point]) -> str:
    from matplotlib.figure import Figure

    truth, video, *arrangements = points
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("sharpness", "change"), strict=True):
        for way, mark in zip(WAYS, ("o-", "^-", "s-"), strict=True):
            shown = [point for point in arrangements if point.label.endswith(f", {way}")]
            cost, quality = [p.cost for p in shown], [getattr(p, name) for p in shown]
            axes.plot(cost, quality, mark, label=way)
            for point, x, y in zip(shown, cost, quality, strict=True):
                count = point.label.removesuffix(f", {way}")
                axes.annotate(count, (x, y), xytext=(4, 4), textcoords="offset points")
        for point, style in ((truth, "--"), (video, ":")):
            axes.axhline(getattr(point, name), color="grey", linestyle=style, label=point.label)
        axes.set(xlabel="frame-forwards per frame", ylabel=name)
        axes.legend(fontsize="small")
    return _svg(figure)


def _svg(figure: Any) -> str:
    """A plot as part of a page; the same plot gives the same text."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.hashsalt": "elevator"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]


_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>elevator: the built-in models</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { padding: 0.3rem 0.5rem; text-align: left; font-weight: normal; vertical-align: middle; }
thead th { font-weight: 600; }
tbody th { max-width: 11rem; }
td { text-align: right; font-variant-numeric: tabular-nums; }
img { image-rendering: pixelated; display: block; }
code { font-size: 0.85em; }
</style>
<h1>elevator: what the built-in models do</h1>
<p>A small text-to-video model (T2V) that learnt from blurred, flat clips; a text-to-image model
(T2I) that learnt from crisp stills and knows nothing of time; and both together by VideoElevator,
plain and with two personalised T2Is. No model was trained with these captions. Each row has one
seed, from $seed on.</p>
<table>
<thead><tr><th></th>$labels</tr></thead>
<tbody>
$rows
</tbody>
</table>
<h2>The low-pass filter</h2>
<p>Spectrum over time of the T2I's clean estimate, before and after the filter, mean over those
refinements of the first caption where it runs (all but the last). Flicker is what is high.</p>
$spectrum
<h2>Quality against cost</h2>
<p>More refinements cost network calls. Refined frames are noised anew, with noise that all share,
and averaged along their motion, or they are inverted as published, or <em>inverted fast</em>, in
strides of three and without the correction, all at the same points. Cost counts frames through both
U-Nets, guidance twice, over the frames of a clip; where frames are averaged, $averages of the
autoencoder come to it.
Means over $measured captions: sharpness is the mean absolute Laplacian, change the
mean difference of neighbouring frames along the object's way, words the share of textures, colours
and shapes that the recogniser reads as told, motion that of motions. Numbers beside the points
count the refinements.</p>
$cost
<table>
<thead><tr>
<th>refinements</th><th>frame-forwards per frame</th>
<th>sharpness</th><th>change</th><th>words</th><th>motion</th>
</tr></thead>
<tbody>
$table
</tbody>
</table>
<p>Arrangement: <code>$settings</code>; in styles: <code>$styled</code></p>
</html>
""")
