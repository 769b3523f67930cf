"""Errors that a user can cause and mend; the command line prints them without a traceback."""

__all__ = [
    "BgdiffError",
    "CheckpointError",
    "ConfigError",
    "CorrectionError",
    "DataError",
    "RunDirectoryError",
    "StorageError",
    "SystemDefinitionError",
    "WorkerError",
]


class BgdiffError(Exception):
    """Base of every error with a message meant for the user: what is wrong, where, what to do."""


class SystemDefinitionError(BgdiffError):
    """A system is unknown, or a file of its folder is missing or malformed."""


class UnsupportedSystem(BgdiffError):  # noqa: N818 (it says what is wrong; the suffix would add nothing)
    """A force field has a term that the batched engine lacks; the message names force and term."""


class DataError(BgdiffError):
    """A data set disagrees with its system, is damaged, or is too small."""


class ConfigError(BgdiffError):
    """A setting is outside the range in which it means anything."""


class CorrectionError(BgdiffError):
    """A correction of the samples cannot go on; the message names the rung, what it means, what to try."""


class CheckpointError(BgdiffError):
    """A checkpoint or another file of a run is corrupt, truncated or of another version."""


class RunDirectoryError(BgdiffError):
    """A run directory holds something else than the run that is asked for."""


class StorageError(BgdiffError):
    """A file could not be written: disk full, no permission, path is a file."""


class WorkerError(BgdiffError):
    """A process that was helping died: killed, out of memory, or crashed."""
