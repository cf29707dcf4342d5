"""One hook, the same code, on every pipeline: what holds on all of them is asserted here."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import Tensor

import elevator as el
from elevator.filters import LowPass
from elevator.hook import Hook, Run, Step
from elevator.hosts.layouts import layout_of
from elevator.hosts.pipeline import knows_its_frames, networks_of
from elevator.latent import Latent
from elevator.level import Prediction
from tests.matrix import FEATURES, HOOKED, REFUSED, Feature, layout, table
from tests.tiny_pipelines import NAMES, Dummy, call, described, latents_of, tiny

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
class Shapes(Hook[Any]):
    """Keeps the shapes of the runs it is in."""

    seen: list[tuple[int, ...]]

    def init(self, run: Run) -> None:
        self.seen.append(run.shape)

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        return clean, state


@final
@dataclass(frozen=True)
class Mean(Hook[Any]):
    """The running mean of the clean estimates: what a second run would notice of the first."""

    def init(self, run: Run) -> None:
        return None

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        mixed = clean if state is None else (clean + state) / 2
        return mixed, mixed


@pytest.fixture(scope="module", params=HOOKED)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def pipe(name: str) -> Any:
    return tiny(name)


@pytest.fixture(scope="module")
def plain(name: str, pipe: Any) -> Tensor:
    """The latents the pipeline makes by itself."""
    return run(name, pipe)


def run(name: str, pipe: Any, **more: Any) -> Tensor:
    with torch.no_grad():
        return latents_of(pipe(**call(name, **more)))


def attached(pipe: Any, hook: Hook[Any]) -> Any:
    return el.attach(pipe, hook, frames=None if knows_its_frames(pipe) else 1)


def hooked(name: str, pipe: Any, hook: Hook[Any], **more: Any) -> Tensor:
    """The latents made with a hook."""
    with attached(pipe, hook):
        return run(name, pipe, **more)


def is_constant(name: str, latents: Tensor) -> bool:
    """Whether a run ended at the constant, but for frames that are a condition."""
    facts = described(name)
    kept, (_, _, height, width) = facts.get("kept", 0), facts["latents"]
    tokens = latents.ndim == 3
    changed = latents[:, kept * height * width :] if tokens and kept else latents
    changed = latents[:, :, kept:] if kept and not tokens else changed
    return bool((changed - CONSTANT).abs().max() < facts.get("end", 1e-5))


def test_every_described_pipeline_is_hooked_or_refused() -> None:
    assert set(NAMES) == {*HOOKED, *REFUSED}
    assert not {*HOOKED} & {*REFUSED}


def test_every_network_is_called(name: str, pipe: Any) -> None:
    called: list[int] = []
    handles = [
        network.register_forward_hook(lambda module, *_: called.append(id(module)))
        for network in networks_of(pipe)
    ]
    run(name, pipe)
    for handle in handles:
        handle.remove()
    assert set(called) == {id(network) for network in networks_of(pipe)}


def test_a_hook_that_does_nothing_is_invisible(name: str, pipe: Any, plain: Tensor) -> None:
    assert torch.equal(hooked(name, pipe, el.identity()), plain)
    assert torch.equal(hooked(name, pipe, Looking([])), plain)
    assert torch.equal(run(name, pipe), plain)


@pytest.mark.usefixtures("plain")  # pipelines keep what they were called with, from then on
def test_nothing_of_a_hook_is_left(name: str, pipe: Any) -> None:
    class Broken(Exception):
        pass

    def fail(clean: Latent, step: Step) -> Latent:
        raise Broken

    parts = [pipe.scheduler, pipe, *networks_of(pipe)]
    before = [(type(part), sorted(vars(part))) for part in parts]
    with pytest.raises(Broken):
        hooked(name, pipe, el.stateless(fail))
    assert [(type(part), sorted(vars(part))) for part in parts] == before
    assert not any(vars(network)["_forward_hooks"] for network in networks_of(pipe))


def test_hooks_see_clips_in_one_layout(name: str, pipe: Any) -> None:
    seen: list[Latent] = []
    hooked(name, pipe, Looking(seen))
    assert {clean.shape for clean in seen} == {(1, *described(name)["latents"])}
    assert len(seen) == call(name)["num_inference_steps"]


def test_a_plan_knows_the_latents(name: str, pipe: Any) -> None:
    seen: list[tuple[int, ...]] = []
    asked = {key: described(name)["call"].get(key) for key in ("height", "width")}
    frames = described(name)["call"].get("num_frames", 1)
    planned = el.plan(pipe, Shapes(seen), steps=2, frames=frames, **asked)
    ((one, channels, count, *space),) = seen
    wanted = described(name)["latents"]
    assert (one, channels) == (1, wanted[0])
    assert count - wanted[1] in (0, described(name).get("kept", 0))
    assert asked["height"] is None or space == wanted[2:]
    assert planned.frame_forwards() == 2 * 2 * count


def test_the_readme_says_how_latents_are_laid_out(
    name: str, pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[str] = set()

    def told(pipeline: Any, axes: int) -> str:
        used.add(layout_of(pipeline, axes))
        return layout_of(pipeline, axes)

    monkeypatch.setattr("elevator.hosts.layouts.layout_of", told)
    hooked(name, pipe, el.identity())
    assert used == {layout(name)}
    assert knows_its_frames(pipe) is ("frames=" not in described(name).get("beside", ""))


def test_a_constant_reaches_the_end(name: str, pipe: Any, plain: Tensor) -> None:
    last: list[Latent] = []
    final = hooked(name, pipe, el.chain(Looking([], CONSTANT), Looking(last)))
    assert torch.equal(last[-1], torch.full_like(last[-1], CONSTANT))
    assert is_constant(name, final)
    assert not is_constant(name, plain)


def test_a_rule_makes_the_next_latent(name: str, pipe: Any) -> None:
    """Of the hook's estimate and the noise that was predicted, whatever the solver proposed."""
    seen: list[Step] = []

    def constant(clean: Latent, step: Step) -> Latent:
        kept = Prediction(*(part.clone() for part in step.predicted))
        seen.append(replace(step, noisy=step.noisy.clone(), predicted=kept))
        return torch.full_like(clean, CONSTANT)

    hook = el.renoise(el.stateless(constant), el.KeepNoise())
    if "no re-noising rule" in described(name).get("beside", ""):
        (problem,) = el.check(pipe, hook, steps=2)
        assert "cannot follow" in problem
        return
    assert is_constant(name, hooked(name, pipe, hook))
    assert len(seen) > 1
    conditions = described(name).get("kept", 0) if "(" in layout(name) else 0
    for one, following in pairwise(seen):
        alpha, sigma = (float(factor) for factor in following.level[:2])
        wanted = alpha * CONSTANT + sigma * one.predicted.noise
        gap = (following.noisy - wanted)[:, :, conditions:].abs().max()
        assert gap < 1e-4 * max(alpha, sigma), float(gap)


def test_a_filter_over_time_leaves_the_mean_and_calms_the_rest(name: str, pipe: Any) -> None:
    before: list[Latent] = []
    after: list[Latent] = []
    lowpass = LowPass("gaussian", temporal=0.25)
    hooked(name, pipe, el.chain(Looking(before), lowpass, Looking(after)))
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new.mean(2), old.mean(2), atol=1e-4, rtol=1e-4)
        if old.shape[2] > 1:
            assert new.std(2).mean() < 0.9 * old.std(2).mean()


def test_runs_know_nothing_of_each_other(name: str, pipe: Any, plain: Tensor) -> None:
    with attached(pipe, Mean()):
        first, second = run(name, pipe), run(name, pipe)
    assert torch.equal(first, second)
    assert not torch.equal(first, plain)


def test_noise_follows_the_generator_of_the_call(name: str, pipe: Any) -> None:
    drawn: list[Tensor] = []

    def draw(clean: Latent, step: Step) -> Latent:
        drawn.append(step.draw())
        return clean

    with attached(pipe, el.stateless(draw)):
        for seed in (1, 2, 1):
            generator = torch.Generator().manual_seed(seed)
            run(name, pipe, generator=generator)
    first, other, again = drawn[0], drawn[len(drawn) // 3], drawn[2 * len(drawn) // 3]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_pipeline_is_saved_as_it_is(name: str, pipe: Any, plain: Tensor, tmp_path: Path) -> None:
    with attached(pipe, Looking([], CONSTANT)):
        run(name, pipe)
        pipe.save_pretrained(str(tmp_path / "hooked"))
    pipe.save_pretrained(str(tmp_path / "plain"))
    files = sorted(file.relative_to(tmp_path / "plain") for file in _files(tmp_path / "plain"))
    assert len(files) > 2
    for file in files:
        ours, theirs = (tmp_path / of / file for of in ("hooked", "plain"))
        assert ours.read_bytes().replace(b"hooked", b"plain") == theirs.read_bytes()
    assert len(files) == len(_files(tmp_path / "hooked"))
    again = _load(pipe, tmp_path / "hooked")
    # Weights mapped from a file lie elsewhere in memory, which may move the last bit; some of the
    # networks, random as they are, make a thousand times as much of it.
    torch.testing.assert_close(run(name, again), plain, rtol=1e-3, atol=1e-3)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _load(pipe: Any, folder: Path) -> Any:
    if hasattr(pipe, "blocks"):
        again = pipe.blocks.init_pipeline(str(folder))
        again.load_components()
    else:
        unsaved = {
            part: made
            for part, made in pipe.components.items()
            if made is None or isinstance(made, Dummy)
        }
        again = type(pipe).from_pretrained(folder, **unsaved)
    again.set_progress_bar_config(disable=True)
    return again


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_what_is_switched_on_beside_a_hook(
    name: str, pipe: Any, plain: Tensor, feature: Feature
) -> None:
    """Within the block and before it, for one call and the next, seen or not."""
    if not feature.tried_on(name):
        pytest.skip("tried on another pipeline with this kind of network")
    own = copy.deepcopy(pipe)
    lack = feature.lack(name)
    if lack is not None:
        with pytest.raises(Exception, match=lack.fails):
            _by_itself(name, own, feature)
        return
    seen: list[Latent] = []
    act = False

    def hook(clean: Latent, step: Step) -> Latent:
        seen.append(clean)
        return torch.full_like(clean, CONSTANT) if act else clean

    with attached(own, el.stateless(hook)):
        feature.switch_on(own)
        unchanged = run(name, own)
        act = True
        changed = run(name, own)
    by_itself = run(name, own)
    assert all(feature.is_on(network) for network in networks_of(own))
    assert torch.equal(by_itself, plain) is not feature.changes
    assert torch.equal(unchanged, by_itself)
    assert is_constant(name, changed)
    act = False
    with attached(own, el.stateless(hook)):
        assert torch.equal(run(name, own), by_itself)
    assert len(seen) == 3 * call(name)["num_inference_steps"]


def _by_itself(name: str, pipe: Any, feature: Feature) -> Tensor:
    feature.switch_on(pipe)
    return run(name, pipe)


_CACHES = [feature for feature in FEATURES if "enable_cache" in feature.code]


@pytest.mark.parametrize("cache", _CACHES, ids=lambda cache: cache.name)
def test_a_cache_does_not_notice_what_a_hook_calls(name: str, pipe: Any, cache: Feature) -> None:
    if cache.lack(name) is not None:
        pytest.skip("diffusers does not have this cache here")
    own = copy.deepcopy(pipe)
    by_itself = _by_itself(name, own, cache)
    last: list[Any] = []
    answers: list[Tensor] = []

    def remember(network: Any, args: Any, kwargs: Any) -> None:
        last[:] = [network, args, kwargs]

    def ask(clean: Latent, step: Step) -> Latent:
        network, args, kwargs = last
        other = {"hidden_states": -kwargs["hidden_states"]}
        answers.append(network(*args, **kwargs | other)[0])
        return clean

    for network in networks_of(own):
        network.register_forward_pre_hook(remember, with_kwargs=True)
    assert torch.equal(hooked(name, own, el.stateless(ask)), by_itself)
    assert len(answers) == call(name)["num_inference_steps"]


def test_the_readme_has_this_table() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    _, _, rest = readme.partition("<!-- matrix: python -m tests.matrix -->\n")
    written, end, _ = rest.partition("\n<!-- end of matrix -->")
    assert end
    assert written == table()


@pytest.mark.parametrize("refused", REFUSED)
def test_what_cannot_be_hooked_says_why(refused: str) -> None:
    (problem,) = el.check(tiny(refused), el.identity())
    assert described(refused)["refused"] in problem
