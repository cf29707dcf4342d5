"""The errors of elevator: each says what was given, what was expected and what to do."""

from collections.abc import Iterable

__all__ = ["CheckError", "CheckpointError", "ElevatorError", "HookError", "LayoutError"]


class ElevatorError(Exception):
    """Base class of every error raised on purpose by elevator."""


class CheckError(ElevatorError, ValueError):
    """A composition cannot run as it stands; raised before any network is called.

    Attributes:
        problems: one plain sentence per problem, each with its remedy.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        """Join the sentences into one message."""
        self.problems = tuple(problems)
        super().__init__("\n".join(f"- {problem}" for problem in self.problems))


class HookError(ElevatorError, RuntimeError):
    """A hook broke its contract during a run (wrote into its input, changed a shape, ...)."""


class LayoutError(ElevatorError, ValueError):
    """The axes of a latent could not be told apart (frames hidden in the batch, packed tokens)."""


class CheckpointError(ElevatorError, ValueError):
    """A checkpoint cannot be loaded as asked (missing, a pickle, of another kind)."""
