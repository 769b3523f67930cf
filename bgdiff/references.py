"""Files of independent reference values: read, and refused if they answer another question."""

import json
from pathlib import Path
from typing import Any

from bgdiff.errors import SystemDefinitionError

__all__ = ["read_reference"]


def read_reference(path: Path, command: str, **expected: Any) -> dict[str, Any]:
    """Read a file that ``bgdiff reference`` wrote.

    Args:
        path: the file.
        command: what makes it again, for messages.
        expected: digests that the file must hold, by field; a dict stands for some fields of a field.

    Raises:
        SystemDefinitionError: the file is missing, malformed, or was computed for something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {
            key: {part: content[key][part] for part in value} if isinstance(value, dict) else content[key]
            for key, value in expected.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemDefinitionError(
            f"{path}: is missing or malformed ({error}); remake it with: {command}"
        ) from error
    if found != expected:
        wrong = ", ".join(key for key, value in expected.items() if found[key] != value)
        raise SystemDefinitionError(
            f"{path}: was computed for another potential, temperature or basins than system.yaml now has "
            f"({wrong}); remake it with: {command}, or remove its name from system.yaml"
        )
    return dict(content)
