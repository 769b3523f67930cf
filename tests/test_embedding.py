"""What a page embeds: pictures show what their files show, scripts come back as they were."""

import base64
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from bgdiff.analysis.embedding import embedded_picture, packed_script


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def shown(address: str) -> tuple[str, np.ndarray]:
    kind, content = address.removeprefix("data:image/").split(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    return kind, np.asarray(picture.convert("RGB")).astype(float)


def drawing(side: int = 300) -> np.ndarray:
    """White, with coloured lines."""
    pixels = np.full((side, side, 3), 255.0)
    pixels[side // 3, :] = 0, 114, 178
    pixels[:, side // 4] = 213, 94, 0
    return pixels


@pytest.mark.skipif(not features.check("webp"), reason="this Pillow cannot write WebP")
def test_drawings_lose_nothing_and_large_pictures_nothing_that_is_seen(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 4, (400, 400, 3))
    x, y = np.meshgrid(np.linspace(-1, 1, 400), np.linspace(-1, 1, 400))
    ball = np.where((x**2 + y**2 < 0.8)[..., None], 200 - 80 * (x + y)[..., None], 255) + noise
    for pixels, most in ((drawing(), 0.0), (ball.clip(0, 255), 5.0)):
        path = saved(tmp_path / "one.png", pixels)
        kind, seen = shown(embedded_picture(path))
        assert kind == "webp"
        assert np.sqrt(np.square(seen - pixels.astype(np.uint8)).mean()) <= most
        assert len(embedded_picture(path)) < path.stat().st_size * 4 / 3


def test_without_webp_the_file_itself_is_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    path = saved(tmp_path / "one.png", drawing())
    address = embedded_picture(path)
    assert base64.b64decode(address.removeprefix("data:image/png;base64,")) == path.read_bytes()


def test_scripts_come_back_and_hold_nothing_that_ends_an_element() -> None:
    source = "var a = '</script><!-- é';\r\n"
    packed = packed_script(source)
    assert "<" not in packed
    assert packed == packed_script(source)
    assert gzip.decompress(base64.b64decode(packed)).decode() == source
