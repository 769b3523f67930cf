"""Training checkpoints of earlier versions, brought to today's form."""

from typing import Any

from torch import Tensor

from bgdiff.config import NetworkConfig
from bgdiff.training_config import TrainingConfig

__all__ = ["FORMAT", "upgraded"]

FORMAT = 6
"""Of the checkpoints that are written."""


def upgraded(
    tensors: dict[str, Tensor], metadata: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata as the current version writes them; what is unknown stays as it is.

    Settings that did not exist yet get their defaults, as they do where a run is read. Format 5 had a score
    term and at most one variant of DiffCLF, whose losses it stored as ``score`` and ``diffclf``.
    """
    theirs = metadata.get("fingerprint", {})
    if metadata.get("kind") != "training" or theirs.get("format") not in (5, FORMAT):
        return tensors, metadata
    training = TrainingConfig.model_validate(theirs["training"])
    network = NetworkConfig.model_validate(theirs["network"])
    metadata = {
        **metadata,
        "fingerprint": {
            **theirs,
            "format": FORMAT,
            "network": network.model_dump(mode="json"),
            "training": training.model_dump(mode="json"),
        },
    }
    if theirs["format"] == FORMAT:
        return tensors, metadata
    terms = list(training.objectives)
    names = dict(zip(("score", "diffclf"), terms, strict=False))
    names |= {f"held_out_{former}": f"held_out_{term}" for former, term in names.items()}
    metadata["history"] = [
        {names.get(key, key): value for key, value in record.items() if "diffclf" not in key or key in names}
        for record in metadata["history"]
    ]
    metadata["since_log"] = [[*row[: len(terms)], row[-1]] for row in metadata["since_log"]]
    return {
        f"objectives.mixed_score.{name}" if name.startswith("mixing.") else name: value
        for name, value in tensors.items()
    }, metadata
