"""Pictures and scripts within a page, made small: a browser reads all of a page before it can show it."""

import base64
import gzip
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["embedded_picture", "packed_script", "script_hash"]

_MOST_LOSSLESS = 150_000  # bytes; above, the picture is a shaded drawing, which only lossy formats make small
_QUALITY = 90


def embedded_picture(path: Path) -> str:
    """A PNG file as a ``data:`` address, in a format that is a half to a fifth as large.

    WebP without loss for line drawings, with invisible loss (quality 90) for the few large pictures, such as
    renderings of many atoms; PNG as it is if this Pillow cannot write WebP or it would not be smaller.
    """
    from PIL import Image, features

    content, kind = path.read_bytes(), "png"
    if features.check("webp"):
        with Image.open(io.BytesIO(content)) as picture:
            solid = picture.convert("RGB")
        packed = _webp(solid, lossless=True, quality=50, method=2)
        if len(packed) > _MOST_LOSSLESS:
            packed = _webp(solid, quality=_QUALITY, method=4)
        if len(packed) < len(content):
            content, kind = packed, "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def packed_script(source: str) -> str:
    """gzip in base64 of JavaScript, for a script that a page unpacks and runs when it needs it."""
    return base64.b64encode(gzip.compress(source.encode(), mtime=0)).decode("ascii")


def script_hash(source: str) -> str:
    """The source of a Content-Security-Policy that allows exactly this script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode('ascii')}'"


def _webp(picture: "Image", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", **options)
    return stream.getvalue()
