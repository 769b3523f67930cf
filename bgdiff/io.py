"""Files of a run: written whole or not at all, and checked when they are read."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bgdiff.errors import CheckpointError, StorageError

__all__ = [
    "atomic_path",
    "load_tensors",
    "make_directory",
    "read_json",
    "save_tensors",
    "write_json",
    "write_text",
]


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` if the block succeeds.

    The file is flushed to disk before the rename, so ``path`` always holds either its old content or
    the complete new one. The temporary name keeps the suffix, because writers choose formats by it.

    Raises:
        StorageError: the directory is not writable or the disk is full; ``path`` is untouched.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise _storage_error(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes 0600; a run should be readable like any file
        temporary.replace(path)
    except OSError as error:
        raise _storage_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def make_directory(path: Path | str) -> Path:
    """Create ``path`` and its parents.

    Raises:
        StorageError: it cannot be created, or is a file.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _storage_error(path, error) from error
    return path


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` to ``path`` atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as JSON atomically; numbers that JSON lacks (nan, inf) are written as null."""
    write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file of a run.

    Raises:
        CheckpointError: the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: file is missing; the run is incomplete or was moved") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error


def save_tensors(
    path: Path | str, tensors: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write torch tensors and JSON-able ``metadata`` to one safetensors file, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    content = json.dumps(_plain(dict(metadata or {})), allow_nan=False)
    # One key only: safetensors writes several in random order, and equal files should have equal bytes.
    header = {"bgdiff": json.dumps({"digest": _digest(plain, content), "content": content})}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, header)
        except SafetensorError as error:  # safetensors reports I/O failures with its own type
            raise OSError(str(error)) from error


def load_tensors(path: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read ``(tensors, metadata)`` written by :func:`save_tensors`.

    Raises:
        CheckpointError: the file is missing, truncated, or not written by bgdiff.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, framework="pt") as stream:
            header = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: file is missing; the run is incomplete or was moved") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: corrupt or truncated ({error}); delete it to redo this stage"
        ) from error
    if "bgdiff" not in header:
        raise CheckpointError(f"{path}: was not written by bgdiff")
    try:
        envelope = json.loads(header["bgdiff"])
        digest, content = envelope["digest"], envelope["content"]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: its header is corrupt; delete it to redo this stage") from error
    if digest != _digest(tensors, content):
        raise CheckpointError(f"{path}: corrupt (its checksum does not fit); delete it to redo this stage")
    return tensors, json.loads(content)


def _digest(tensors: Mapping[str, Any], metadata: str) -> str:
    """BLAKE2b of the content: a flipped bit would otherwise be a silently different model."""
    digest = hashlib.blake2b(metadata.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).numpy().tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Turn NumPy and torch scalars, paths and non-finite numbers into what JSON holds."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Path):
        return str(value)
    return value


def _storage_error(path: Path, error: OSError) -> StorageError:
    reason = error.strerror or str(error)
    return StorageError(
        f"{path}: cannot be written ({reason}); free some space or choose another directory with --out"
    )
