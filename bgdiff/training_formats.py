"""Training checkpoints of earlier versions, brought to today's form."""

from typing import Any

from torch import Tensor

from bgdiff.config import TrainingConfig

__all__ = ["FORMAT", "upgraded"]

FORMAT = 6
"""Of the checkpoints that are written."""


def upgraded(
    tensors: dict[str, Tensor], metadata: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata as the current version writes them; what is unknown stays as it is.

    Format 5 had a score term and at most one variant of DiffCLF, with fields of their own in the settings,
    and stored their losses as ``score`` and ``diffclf``.
    """
    theirs = metadata.get("fingerprint", {})
    if metadata.get("kind") != "training" or theirs.get("format") != 5:
        return tensors, metadata
    training = TrainingConfig.model_validate(theirs["training"])
    terms = list(training.objectives)
    names = {"score": terms[0], "held_out_score": f"held_out_{terms[0]}"}
    if len(terms) == 2:
        names |= {"diffclf": terms[1], "held_out_diffclf": f"held_out_{terms[1]}"}
    history = [
        {names.get(key, key): value for key, value in record.items() if "diffclf" not in key or key in names}
        for record in metadata["history"]
    ]
    return (
        {
            f"objectives.mixed_score.{name}" if name.startswith("mixing.") else name: value
            for name, value in tensors.items()
        },
        {
            **metadata,
            "history": history,
            "since_log": [[*row[: len(terms)], row[-1]] for row in metadata["since_log"]],
            "fingerprint": {**theirs, "format": FORMAT, "training": training.model_dump(mode="json")},
        },
    )
