"""One hook, the same code, on every pipeline: what holds on all of them is asserted here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import Tensor

import elevator as el
from elevator.filters import LowPass
from elevator.hook import Hook, Run, Step
from elevator.hosts.pipeline import knows_its_frames
from elevator.latent import Latent
from tests.tiny_pipelines import NAMES, call, pipeline_of, tiny

LATENTS: dict[str, tuple[int, int, int, int]] = {
    "t2vsd": (4, 4, 8, 8),
    "animatediff": (4, 4, 8, 8),
    "animatediff_sdxl": (4, 4, 8, 8),
    "sd": (4, 1, 8, 8),
    "sdxl": (4, 1, 8, 8),
    "sd3": (4, 1, 8, 8),
    "upscale": (4, 1, 16, 16),
    "flux": (4, 1, 8, 12),
    "qwen": (16, 1, 8, 12),
    "svd": (4, 4, 16, 16),
    "wan": (16, 3, 2, 2),
    "wan22": (16, 3, 2, 2),
    "ltx": (8, 3, 8, 8),
    "ltx_i2v": (8, 2, 8, 8),
    "ltx_cond": (8, 3, 8, 8),
    "ltx2": (4, 3, 16, 32),
    "cog": (4, 2, 2, 2),
    "cog_dpm": (4, 2, 2, 2),
    "hunyuan": (4, 3, 2, 2),
    "hyv15": (4, 5, 4, 4),
    "mochi": (12, 2, 2, 2),
    "cosmos": (4, 3, 8, 8),
    "kandinsky5": (4, 3, 4, 4),
}
"""Channels, frames, rows and columns of the latents a hook sees."""
REFUSED = {"skydf": "a scheduler of its own for every frame"}
"""Pipelines that cannot be hooked, and why."""
ENDS = {"t2vsd": 0.13, "animatediff": 0.13, "animatediff_sdxl": 0.13, "sd": 0.13, "upscale": 0.13}
"""Distance from the clean estimate at the end: DDIM's last level is the first of the table, which
has noise."""
ENDS |= {"cosmos": 0.02}  # EDM ends at its smallest sigma
KEPT = {"ltx_cond": 1}
"""First frames that are a condition, which no hook changes."""
CONSTANT = 0.375


@final
@dataclass(frozen=True)
class Looking(Hook[Any]):
    """Keeps what it sees in a list, and gives a constant or what it got."""

    seen: list[Latent]
    constant: float | None = None

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        self.seen.append(clean)
        return (clean if self.constant is None else torch.full_like(clean, self.constant)), state


@final
@dataclass(frozen=True)
class Mean(Hook[Any]):
    """The running mean of the clean estimates: what a second run would notice of the first."""

    def init(self, run: Run) -> None:
        return None

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        mixed = clean if state is None else (clean + state) / 2
        return mixed, mixed


@pytest.fixture(scope="module", params=sorted(LATENTS))
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def pipe(name: str) -> Any:
    return tiny(name)


@pytest.fixture(scope="module")
def plain(name: str, pipe: Any) -> Tensor:
    """The latents the pipeline makes by itself."""
    return _latents(pipe(**call(name)))


def _latents(output: Any) -> Tensor:
    first = output[0]
    return torch.as_tensor(first[0] if isinstance(first, list) else first)


def hooked(name: str, pipe: Any, hook: Hook[Any], **more: Any) -> Tensor:
    """The latents made with a hook."""
    frames = None if knows_its_frames(pipe) else 1
    with torch.no_grad(), el.attach(pipe, hook, frames=frames):
        return _latents(pipe(**call(name, **more)))


def test_every_described_pipeline_is_tried() -> None:
    assert set(NAMES) == set(LATENTS) | set(REFUSED)


def test_the_readme_names_every_pipeline() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for described in NAMES:
        assert f"`{pipeline_of(described)}`" in readme


def test_a_hook_that_does_nothing_is_invisible(name: str, pipe: Any, plain: Tensor) -> None:
    cls = type(pipe.scheduler)
    assert torch.equal(hooked(name, pipe, el.identity()), plain)
    assert torch.equal(hooked(name, pipe, Looking([])), plain)
    assert type(pipe.scheduler) is cls
    assert torch.equal(_latents(pipe(**call(name))), plain)


def test_hooks_see_clips_in_one_layout(name: str, pipe: Any) -> None:
    seen: list[Latent] = []
    hooked(name, pipe, Looking(seen))
    assert {clean.shape for clean in seen} == {(1, *LATENTS[name])}
    assert len(seen) == 3


def test_a_constant_reaches_the_end(name: str, pipe: Any, plain: Tensor) -> None:
    seen: list[Latent] = []
    hooked(name, pipe, Looking(seen, CONSTANT))
    last: list[Latent] = []
    final = hooked(name, pipe, el.chain(Looking([], CONSTANT), Looking(last)))
    assert torch.equal(last[-1], torch.full_like(last[-1], CONSTANT))
    kept = final.shape[2] // LATENTS[name][1] if final.ndim == 5 else 0
    changed = final[:, :, KEPT.get(name, 0) * max(1, kept) :] if name in KEPT else final
    if name == "ltx_i2v":  # packed, and its first frame is the image
        changed = final[:, final.shape[1] // 3 :]
    assert (changed - CONSTANT).abs().max() < ENDS.get(name, 1e-5)
    assert (plain - CONSTANT).abs().max() > 1


def test_a_filter_over_time_leaves_the_mean_and_calms_the_rest(name: str, pipe: Any) -> None:
    before: list[Latent] = []
    after: list[Latent] = []
    lowpass = LowPass("gaussian", temporal=0.25)
    hooked(name, pipe, el.chain(Looking(before), lowpass, Looking(after)))
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new.mean(2), old.mean(2), atol=1e-4, rtol=1e-4)
        if LATENTS[name][1] > 1:
            assert new.std(2).mean() < 0.9 * old.std(2).mean()


def test_runs_know_nothing_of_each_other(name: str, pipe: Any, plain: Tensor) -> None:
    frames = None if knows_its_frames(pipe) else 1
    with torch.no_grad(), el.attach(pipe, Mean(), frames=frames):
        first, second = (_latents(pipe(**call(name))) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, plain)


def test_a_hooked_scheduler_is_saved_as_its_own_class(name: str, pipe: Any, tmp_path: Path) -> None:
    frames = None if knows_its_frames(pipe) else 1
    plain = type(pipe.scheduler)
    with el.attach(pipe, el.identity(), frames=frames):
        pipe.scheduler.save_pretrained(tmp_path)
    assert type(plain.from_pretrained(tmp_path)) is plain


@pytest.mark.parametrize("refused", REFUSED)
def test_what_cannot_be_hooked_says_why(refused: str) -> None:
    (problem,) = el.check(tiny(refused), el.identity())
    assert REFUSED[refused] in problem
