"""Ball-and-stick images of points in space, ray-cast with numpy: shading, outlines, haze."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter

__all__ = ["Scene", "render"]

Array = NDArray[np.float64]

_LIGHT = np.array([-0.36, 0.48, 0.80])  # from the upper left, before the page
_HALFWAY = np.array([-0.190, 0.253, 0.949])  # between the light and the viewer: where it glints
_STICK = np.array([0.78, 0.79, 0.81])
_OUTLINE = np.array([0.13, 0.14, 0.16])
_HAZE = 0.5  # share of white at the far end
_OVERSAMPLING = 2
_COARSE = 4  # pixels a side of the grid that shade is computed on


class Scene(NamedTuple):
    """Balls and sticks, seen along -z: what has the larger z is in front.

    Lengths are of any one unit; colours are RGB in [0, 1].
    """

    centres: Array
    """``(N, 3)``."""
    radii: Array
    """``(N,)``."""
    colours: Array
    """``(N, 3)``."""
    sticks: NDArray[np.intp]
    """``(M, 2)`` pairs of balls."""
    stick_radius: float


def render(scene: Scene, half_width: float, pixels: int = 400) -> Array:
    """Draw a scene in orthographic projection, centred at the origin.

    Args:
        half_width: what lies within ``[-half_width, half_width]`` in x and y is in the image.
        pixels: of the image's edge.

    Returns:
        RGBA ``(pixels, pixels, 4)`` in [0, 1], colours not multiplied with alpha, first row on top.
    """
    canvas = _Canvas(half_width, pixels * _OVERSAMPLING)
    for first, second in scene.sticks:
        canvas.stick(scene.centres[first], scene.centres[second], scene.stick_radius)
    for centre, radius, colour in zip(scene.centres, scene.radii, scene.colours, strict=True):
        canvas.ball(centre, float(radius), colour)
    return canvas.image(float(scene.radii.max(initial=0.0)))


class _Canvas:
    """Depth, normal and colour of what is in front, pixel by pixel."""

    def __init__(self, half_width: float, size: int) -> None:
        self.centre = (np.arange(size) + 0.5) * (2 * half_width / size) - half_width
        self.pixel = 2 * half_width / size
        self.depth = np.full((size, size), -np.inf)
        self.normal = np.zeros((size, size, 3))
        self.colour = np.zeros((size, size, 3))

    def ball(self, centre: Array, radius: float, colour: Array) -> None:
        window = self._window(centre[:2] - radius, centre[:2] + radius)
        x, y = self._grid(window, centre)
        height = np.sqrt(np.maximum(radius**2 - x**2 - y**2, 0.0))
        normal = np.stack([np.broadcast_to(x, height.shape), np.broadcast_to(y, height.shape), height], -1)
        self._put(window, height > 0, centre[2] + height, normal / radius, colour)

    def stick(self, start: Array, end: Array, radius: float) -> None:
        """The side of a cylinder; its ends are hidden in balls."""
        length = float(np.linalg.norm(end - start))
        if length == 0:
            return
        axis = (end - start) / length
        slant = 1 - axis[2] ** 2
        if slant < 1e-9:  # seen along its axis, it is behind a ball
            return
        low, high = np.minimum(start, end)[:2] - radius, np.maximum(start, end)[:2] + radius
        window = self._window(low, high)
        x, y = self._grid(window, start)
        along = axis[0] * x + axis[1] * y
        # points start + (x, y, w) at distance `radius` of the axis: slant w² - 2 along axis_z w + rest = 0
        half, rest = along * axis[2], x**2 + y**2 - along**2 - radius**2
        discriminant = half**2 - slant * rest
        w = (half + np.sqrt(np.maximum(discriminant, 0.0))) / slant
        position = along + axis[2] * w
        hit = (discriminant > 0) & (position >= 0) & (position <= length)
        point = np.stack([np.broadcast_to(x, w.shape), np.broadcast_to(y, w.shape), w], -1)
        self._put(window, hit, start[2] + w, (point - position[..., None] * axis) / radius, _STICK)

    def image(self, thickness: float) -> Array:
        """Shade, outline jumps of depth larger than half of ``thickness``, and average pixels."""
        seen = np.isfinite(self.depth)
        if not seen.any():
            size = self.depth.shape[0] // _OVERSAMPLING
            return np.zeros((size, size, 4))
        far, near = self.depth[seen].min(), self.depth[seen].max()
        span = max(near - far, 4 * thickness)
        depth = np.where(seen, self.depth, far - span)
        in_front = maximum_filter(depth, size=2 * _OVERSAMPLING + 1)
        outline = in_front - depth > 0.5 * thickness
        inside = seen & ~outline
        shaded = np.zeros_like(self.colour)
        shaded[inside] = self._lit(inside, np.where(seen, self.depth, far), thickness)
        shaded[outline] = _OUTLINE
        haze = _HAZE * (near - np.where(outline, in_front, depth)) / span
        shaded += (1 - shaded) * np.clip(haze, 0, 1)[..., None]
        return _averaged(shaded, (seen | outline).astype(np.float64))

    def _lit(self, inside: NDArray[np.bool_], depth: Array, thickness: float) -> Array:
        """Colours of the pixels ``inside`` by diffuse light, glints, and the shade of hollows."""
        # what lies in a hollow gets less light: its surroundings are nearer to the viewer. This is smooth,
        # so a coarse grid does
        coarse = gaussian_filter(depth[::_COARSE, ::_COARSE], thickness / (_COARSE * self.pixel))
        size = depth.shape[0]
        around = coarse.repeat(_COARSE, 0).repeat(_COARSE, 1)[:size, :size]
        hollow = np.clip((around[inside] - depth[inside]) / thickness, 0, 1)
        normal, colour = self.normal[inside], self.colour[inside]
        diffuse = np.maximum(normal @ _LIGHT, 0.0) * (1 - 0.45 * hollow)
        glint = np.maximum(normal @ _HALFWAY, 0.0) ** 40
        ambient = 0.40 * (1 - 0.45 * hollow)
        return np.asarray(np.clip(colour * (ambient + 0.66 * diffuse)[:, None] + 0.30 * glint[:, None], 0, 1))

    def _window(self, low: Array, high: Array) -> tuple[slice, slice]:
        columns, rows = (
            slice(*np.searchsorted(self.centre, [a, b]).tolist()) for a, b in zip(low, high, strict=True)
        )
        return rows, columns

    def _grid(self, window: tuple[slice, slice], origin: Array) -> tuple[Array, Array]:
        rows, columns = window
        return self.centre[columns][None, :] - origin[0], self.centre[rows][:, None] - origin[1]

    def _put(
        self, window: tuple[slice, slice], hit: NDArray[np.bool_], depth: Array, normal: Array, colour: Array
    ) -> None:
        nearer = hit & (depth > self.depth[window])
        self.depth[window][nearer] = depth[nearer]
        self.normal[window][nearer] = normal[nearer]
        self.colour[window][nearer] = colour


def _averaged(colour: Array, alpha: Array) -> Array:
    """Squares of pixels averaged into one, colours by their alpha; rows turned so that y points up."""
    size = alpha.shape[0] // _OVERSAMPLING
    shape = (size, _OVERSAMPLING, size, _OVERSAMPLING)
    cover = alpha.reshape(shape).mean((1, 3))
    mixed = (colour * alpha[..., None]).reshape(*shape, 3).mean((1, 3))
    mixed /= np.maximum(cover, 1e-12)[..., None]
    return np.asarray(np.concatenate([mixed, cover[..., None]], -1)[::-1])
