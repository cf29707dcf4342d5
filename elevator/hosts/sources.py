"""What a checkpoint source is (file, folder, hub id), told from names and headers alone.

Nothing is loaded here, and no pickle is ever opened: of a weight file only the safetensors header
is read.
"""

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from elevator.errors import CheckpointError

__all__ = [
    "Header",
    "Source",
    "failed",
    "fingerprint",
    "index_of",
    "is_offline",
    "locate",
    "quiet_hub",
    "read_header",
    "reason",
    "require_safetensors",
    "require_weights",
    "weight_file",
]

Source = str | os.PathLike[str]
Header = Mapping[str, tuple[int, ...]]
"""The name and shape of every tensor in a file."""

_PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_CONVERT = (
    "convert it to safetensors once, where you trust it: "
    "`pipe.save_pretrained(folder, safe_serialization=True)` of the pipeline it was loaded into, "
    "or `safetensors.torch.save_file` of its tensors"
)
_NEEDS_WEIGHTS = {"unet", "vae", "text_encoder", "motion_adapter"}


def locate(source: Source, expected: str) -> Path | str:
    """Say where a checkpoint lies: a path that exists, or a hub id as a string.

    Args:
        source: a path or a hub id (`org/name`).
        expected: what the source should be, for the message.

    Raises:
        CheckpointError: neither a path that exists nor a hub id; a pickle.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.suffix.lower() in _PICKLES:
        raise CheckpointError(
            f"{source} is a pickle ({path.suffix}), which can run any code when opened and is "
            f"never loaded; {_CONVERT}"
        )
    if path.is_file():
        return path
    if isinstance(source, str) and path.suffix != ".safetensors" and _HUB_ID.fullmatch(source):
        return source
    raise CheckpointError(
        f"{source} does not exist; expected {expected}. Check the path (the current folder is "
        f"{Path.cwd()})"
    )


def weight_file(source: Source, expected: str) -> Path:
    """The path of one safetensors file.

    Raises:
        CheckpointError: it does not exist, is a folder, a pickle or of another kind.
    """
    path = Path(source).expanduser()
    if not path.is_file() and path.suffix.lower() not in _PICKLES:
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{source} {what}; expected {expected}")
    locate(path, expected)
    require_safetensors(path, expected)
    return path


def require_safetensors(path: Path, expected: str) -> None:
    """Check the name of a file.

    Raises:
        CheckpointError: it is not called `.safetensors`.
    """
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(f"{path} is not a .safetensors file; expected {expected}")


def read_header(path: Path) -> Header:
    """Names and shapes of the tensors of a safetensors file.

    Raises:
        CheckpointError: the file is truncated or no safetensors file at all.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({reason(error)}): it is truncated, "
            f"corrupt or of another format ({path.stat().st_size} bytes); download or copy it again"
        ) from error


def index_of(source: Path | str, **hub: Any) -> dict[str, Any]:
    """The `model_index.json` of a pipeline, or the `config.json` of a single network.

    Args:
        source: a folder or a hub id; of a hub id only this one small file is fetched.
        hub: `revision`, `token`, `cache_dir`, ... for a hub id.

    Raises:
        CheckpointError: there is neither; or the hub could not be read.
    """
    if isinstance(source, Path):
        for name in ("model_index.json", "config.json"):
            if (source / name).is_file():
                return _read_json(source / name)
        raise CheckpointError(
            f"{source} is not a diffusers folder: model_index.json is missing{_found(source)}. "
            "Give the folder that `save_pretrained` wrote, or a single .safetensors file"
        )
    from diffusers import DiffusionPipeline, MotionAdapter

    told = {key: hub[key] for key in hub.keys() & _HUB_ARGUMENTS}
    first: Exception | None = None
    readers: tuple[Any, ...] = (DiffusionPipeline, MotionAdapter)
    for reader in readers:  # model_index.json, then config.json
        try:
            with quiet_hub():
                return dict(reader.load_config(source, **told))
        except (OSError, ValueError) as error:  # every error of the hub is one of the two
            first = first or error
    assert first is not None
    raise _not_on_hub(source, first, told) from first


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep back a warning about an argument that diffusers, not the user, gives the hub."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*local_dir_use_symlinks")
        yield


_HUB_ARGUMENTS = {"cache_dir", "force_download", "local_files_only", "revision", "token"}


def require_weights(folder: Path, index: Mapping[str, Any], variant: str | None = None) -> None:
    """Check that every network a pipeline folder lists has safetensors weights.

    Args:
        folder: the folder.
        index: its `model_index.json`, or the `config.json` of a single network.
        variant: the variant asked for, as in `unet/diffusion_pytorch_model.fp16.safetensors`.

    Raises:
        CheckpointError: some have none, or only pickles, or only a variant not asked for.
    """
    single = (folder / "config.json").is_file() and not (folder / "model_index.json").is_file()
    listed = (
        [""]
        if single
        else [
            name
            for name, kind in index.items()
            if name in _NEEDS_WEIGHTS and isinstance(kind, list) and kind[0] is not None
        ]
    )
    for name in listed:
        part = folder / name
        if not part.is_dir():
            raise CheckpointError(
                f"{folder} is incomplete: its model_index.json lists {name}, but there is no "
                f"folder {part}; copy or download the whole pipeline again"
            )
        names = {file.name for file in part.iterdir()}
        safe = {file for file in names if file.endswith(".safetensors")}
        if not safe:
            pickles = sorted(file for file in names if Path(file).suffix in _PICKLES)
            if pickles:
                raise CheckpointError(
                    f"{part} has only pickled weights ({pickles[0]}), which can run any code when "
                    f"opened and are never loaded; expected *.safetensors; {_CONVERT}"
                )
            raise CheckpointError(
                f"{part} has no weights; expected *.safetensors beside config.json{_found(part)}"
            )
        kinds = {_variant(file) for file in safe}
        if variant not in kinds and None not in kinds:
            have = " or ".join(f'variant="{kind}"' for kind in sorted(filter(None, kinds)))
            raise CheckpointError(f"{part} has its weights as a variant only; ask for it: {have}")


def _variant(name: str) -> str | None:
    """`fp16` of `model.fp16.safetensors` or `model.fp16-00001-of-00002.safetensors`."""
    parts = name.removesuffix(".safetensors").split(".")
    kind = re.sub(r"-?\d{5}-of-\d{5}", "", parts[-1])
    return kind if len(parts) > 1 and kind else None


def _loaded(folder: Path) -> list[Path]:
    """The weights that loading a folder reads: those of a pipeline's parts, without variants.

    What else the hub's cache holds of a repository grows with other uses.
    """
    files = list(folder.rglob("*.safetensors"))
    if (folder / "model_index.json").is_file():
        files = [file for file in files if file.parent != folder] or files
    return [file for file in files if _variant(file.name) is None] or files


def fingerprint(source: Source) -> str | None:
    """One sha256 over the weights of a checkpoint.

    Of a file it is the file's own sha256, as `sha256sum` and model sites print it; of a folder the
    sha256 of the sorted list of its safetensors files, each with its name relative to the folder
    and its own sha256. Where a folder lies does not matter, nor when it was written.

    Args:
        source: a folder, a file or a hub id.

    Returns:
        64 hex digits; None for a hub id, whose weights are not here.

    Raises:
        CheckpointError: the source does not exist, is a pickle, or a folder without safetensors.
    """
    path = locate(source, "a folder, a .safetensors file or a hub id")
    if isinstance(path, str):
        return None
    if path.is_file():
        return _sha256(path)
    files = {file.relative_to(path).as_posix(): file for file in _loaded(path)}
    if not files:
        raise CheckpointError(f"{source} has no .safetensors files to take a fingerprint of")
    lines = "".join(f"{_sha256(files[name])}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_offline(hub: Mapping[str, Any]) -> bool:
    """Whether nothing may be fetched."""
    from diffusers.utils.hub_utils import HF_HUB_OFFLINE

    return bool(hub.get("local_files_only")) or bool(HF_HUB_OFFLINE)


def failed(source: object, kind: str, error: BaseException) -> CheckpointError:
    """The error to raise where a library's loader gave up.

    Args:
        source: what was given.
        kind: what it should have been loaded as.
        error: what the loader raised; its message becomes one line of the new one.
    """
    return CheckpointError(f"{source} cannot be loaded as {kind}: {reason(error)}")


def _not_on_hub(source: str, error: BaseException, hub: Mapping[str, Any]) -> CheckpointError:
    if is_offline(hub):
        return CheckpointError(
            f"{source} is neither a file or folder here nor a hub id that was downloaded before, "
            "and the hub may not be asked (HF_HUB_OFFLINE=1 or local_files_only=True); check the "
            "path, or download it first without that setting"
        )
    return CheckpointError(
        f"{source} is neither a file or folder here (the current folder is {Path.cwd()}) nor a "
        f"model the hub gives: {reason(error)}"
    )


def reason(error: BaseException) -> str:
    """A library's message in one line that is not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {reason(error)}") from error
    if not isinstance(read, dict):
        raise CheckpointError(f"{path} holds no configuration; expected a JSON object")
    return read


def _found(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir())[:6]
    return f" (found {', '.join(names)})" if names else " (the folder is empty)"
