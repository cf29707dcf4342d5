"""Do the claims of Upscale-A-Video hold on the built-in models?

Held-out clips of the world, of leaves and of noise are worn and reduced to a quarter along each
side, and made large again in every way; all ways draw the same noise. Clips are kept in `--kept`,
so that a killed run goes on where it was and a new way costs only its own clips; `--make 0/2` and
`--make 1/2` share the work out between two processes, and a run without it judges. Ways that change
one part of the method are tried on half of the clips.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks._arrangements import Way
from benchmarks._claims import told
from benchmarks._kept import digest, fill, label, read, share
from benchmarks._measure import save, table
from benchmarks._rows import Rows, cut, difference
from benchmarks._upscale_claims import claims
from benchmarks._upscaling import CHAIN, CHANGED, NUMBERS, RIVALS, Judge, Trial, Upscalers
from elevator import zoo

METHOD = "+ propagation"
MEASURES = ("PSNR", "SSIM", "distance", "warping", "flicker", "sharpness", "blur")
"""What is shown; the last is for information."""
MODELS = ("upscaler", "upscale-x4")


def main() -> None:
    """Make what is missing; then judge, print and save."""
    options = _arguments()
    torch.set_grad_enabled(False)
    if not options.tiny:
        return _run(
            options, Trial(options.seed), Upscalers(half=options.half, device=options.device)
        )
    with tempfile.TemporaryDirectory() as folder:
        options.kept = Path(folder)
        models = Upscalers(replace(NUMBERS, steps=1, propagate=(0,)))
        return _run(options, Trial(options.seed, frames=3, size=64), models)


def _run(options: argparse.Namespace, trial: Trial, models: Upscalers) -> None:
    few = max(2, options.clips // 2)
    counts = dict.fromkeys((*RIVALS, *CHAIN), options.clips) | dict.fromkeys(CHANGED, few)
    ways = {**RIVALS, **CHAIN, **CHANGED}
    fingerprint = trial.fingerprint(options.clips)
    print(f"{options.clips} small clips, SHA-256 {fingerprint}", flush=True)
    places = {name: _place(options.kept, name, way, trial, models) for name, way in ways.items()}
    first, every = options.make or (0, 1)
    for name, way in ways.items():

        def make(number: int, way: Way = way) -> torch.Tensor:
            return way(models, trial.sample(number), options.seed + number)

        fill(places[name], range(counts[name])[first::every], make)
        print(f"made: {name}", flush=True)
    if options.make is not None:
        return
    judge = Judge()
    samples = [trial.sample(number) for number in range(options.clips)]
    rows = {
        name: judge.rows(read(place, range(counts[name])), samples[: counts[name]])
        for name, place in places.items()
    }
    truth = judge.rows([sample.truth for sample in samples], samples)
    whole = {name: rows[name] for name in (*RIVALS, *CHAIN)}
    part = {METHOD: cut(rows[METHOD], slice(few))} | {name: rows[name] for name in CHANGED}
    tables = {
        "all": {"truth": _means(truth)} | {name: _means(row) for name, row in whole.items()},
        "changed": {name: _means(row) for name, row in part.items()},
    }
    print("\nwarping and flicker in thousandths; sharpness as a part of the truth's;")
    print("blur looks at no truth and is for information only")
    for name, count in (("all", options.clips), ("changed", few)):
        print(f"\n{name}: {count} clips\n{table(tables[name])}")
    judged = list(claims(rows))
    print("\nclaims, with 95 % intervals over clips")
    print("\n".join(map(told, judged)))
    if options.tiny:
        return
    numbers = models.numbers
    save(
        "quality_upscale",
        tables,
        command=f"python -m benchmarks.quality_upscale --clips {options.clips} "
        f"--seed {options.seed}{' --half' if options.half else ''}",
        clips={"all": options.clips, "changed": few},
        inputs=fingerprint,
        weights=_weights(),
        device=options.device,
        numbers={
            "steps": numbers.steps,
            "guidance": numbers.guidance,
            "noise level": numbers.noise_level,
            "propagate": numbers.propagate,
        },
        claims=[claim._asdict() for claim in judged],
        differences=_differences(rows),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for CI")
    parser.add_argument("--clips", type=int, default=64, help="how many (from 4 on)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", action="store_true", help="compute in bfloat16")
    parser.add_argument("--device", default="cpu", help="where the diffusion upscaler computes")
    parser.add_argument("--kept", type=Path, default=Path(".kept"), help="folder for clips")
    parser.add_argument("--make", type=share, help="I/N: make each Nth clip from the Ith, no more")
    options = parser.parse_args()
    if options.tiny:
        options.clips = 2
    elif options.clips < 4:
        parser.error(f"--clips {options.clips} leaves some ways less than two clips")
    return options


def _place(folder: Path, name: str, way: Way, trial: Trial, models: Upscalers) -> Path:
    """A folder named after all that the clips depend on."""
    settings = f"{trial} {models.numbers} {models.half} {way}"
    return folder / f"x-{label(name)}-{digest(settings + _weights(), [])}"


@cache
def _weights() -> str:
    """What tells the models' weights from others."""
    return digest("", [*map(zoo.path, MODELS)])


def _means(rows: Rows) -> dict[str, float]:
    return {name: float(rows[name].mean()) for name in MEASURES}


def _differences(rows: Mapping[str, Rows]) -> dict[str, dict[str, Any]]:
    """Every way minus the method, paired by clip."""
    return {
        name: {measure: difference(row, rows[METHOD], measure) for measure in MEASURES}
        for name, row in rows.items()
        if name != METHOD
    }


if __name__ == "__main__":
    main()
