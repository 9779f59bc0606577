"""What a user is told about a run, in one sentence each."""


class RunError(ValueError):
    """A run directory that is absent, damaged, or of other settings; the text says the next step (exit code 1)."""


class WrongUseError(ValueError):
    """Options that do not go together, or not with what is on disk (exit code 2)."""


class TrainingError(RuntimeError):
    """Training cannot go on; the text says why and the next step (exit code 1)."""


class WorldError(RuntimeError):
    """Processes that train together cannot go on; the text says the next step (exit code 1)."""


class StoppedError(RuntimeError):
    """A training that a signal ended between two steps; its state is saved (exit code 130)."""
