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
    stick_colours: Array | None = None
    """``(M, 3)``; None: all grey."""


def render(scene: Scene, half_width: float, pixels: int = 400) -> Array:
    """Draw a scene in orthographic projection, centred at the origin.

    Args:
        half_width: what lies within ``[-half_width, half_width]`` in x and y is in the image.
        pixels: of the image's edge.

    Returns:
        RGBA ``(pixels, pixels, 4)`` in [0, 1], colours not multiplied with alpha, first row on top.
    """
    solids = _solids(scene)
    canvas = _Canvas(half_width, pixels * _OVERSAMPLING)
    for number, solid in enumerate(solids):
        (canvas.ball if solid.length is None else canvas.stick)(number, solid)
    return canvas.image(solids, float(scene.radii.max(initial=0.0)))


class _Solid(NamedTuple):
    """A ball, or the side of a cylinder from ``origin`` along ``axis``, whose ends are hidden in balls."""

    origin: Array
    radius: float
    colour: Array
    axis: Array
    length: float | None


def _solids(scene: Scene) -> list[_Solid]:
    none = np.zeros(3)
    balls = zip(scene.centres, scene.radii, scene.colours, strict=True)
    solids = [_Solid(centre, float(radius), colour, none, None) for centre, radius, colour in balls]
    shades = (
        np.broadcast_to(_STICK, (len(scene.sticks), 3))
        if scene.stick_colours is None
        else scene.stick_colours
    )
    for (first, second), shade in zip(scene.sticks, shades, strict=True):
        way = scene.centres[second] - scene.centres[first]
        length = float(np.linalg.norm(way))
        if np.linalg.norm(way[:2]) > 1e-4 * length:  # else it is seen along its axis, behind a ball
            solids.append(_Solid(scene.centres[first], scene.stick_radius, shade, way / length, length))
    return solids


class _Canvas:
    """Depth of what is in front, pixel by pixel, and which solid it belongs to."""

    def __init__(self, half_width: float, size: int) -> None:
        self.centre = (np.arange(size) + 0.5) * (2 * half_width / size) - half_width
        self.pixel = 2 * half_width / size
        self.depth = np.full((size, size), -np.inf)
        self.owner = np.zeros((size, size), dtype=np.intp)

    def ball(self, number: int, solid: _Solid) -> None:
        window, x, y = self._window(solid.origin, solid.origin, solid)
        height = np.sqrt(np.maximum(solid.radius**2 - x**2 - y**2, 0.0))
        self._put(window, height > 0, solid.origin[2] + height, number)

    def stick(self, number: int, solid: _Solid) -> None:
        assert solid.length is not None
        window, x, y = self._window(solid.origin, solid.origin + solid.length * solid.axis, solid)
        along = solid.axis[0] * x + solid.axis[1] * y
        # points origin + (x, y, w) at a radius from the axis a: (1 - a_z²) w² - 2 along a_z w + rest = 0
        slant = 1 - solid.axis[2] ** 2
        half, rest = along * solid.axis[2], x**2 + y**2 - along**2 - solid.radius**2
        discriminant = half**2 - slant * rest
        w = (half + np.sqrt(np.maximum(discriminant, 0.0))) / slant
        position = along + solid.axis[2] * w
        hit = (discriminant > 0) & (position >= 0) & (position <= solid.length)
        self._put(window, hit, solid.origin[2] + w, number)

    def image(self, solids: list[_Solid], thickness: float) -> Array:
        """Shade, outline jumps of depth larger than half of ``thickness``, and average pixels."""
        seen = np.isfinite(self.depth)
        size = self.depth.shape[0]
        if not seen.any():
            return np.zeros((size // _OVERSAMPLING, size // _OVERSAMPLING, 4))
        far, near = self.depth[seen].min(), self.depth[seen].max()
        span = max(near - far, 4 * thickness)
        depth = np.where(seen, self.depth, far - span)
        in_front = maximum_filter(depth, size=2 * _OVERSAMPLING + 1)
        outline = in_front - depth > 0.5 * thickness
        inside = seen & ~outline
        shaded = np.zeros((size, size, 3))
        shaded[inside] = self._lit(solids, inside, np.where(seen, self.depth, far), thickness)
        shaded[outline] = _OUTLINE
        haze = _HAZE * (near - np.where(outline, in_front, depth)) / span
        shaded += (1 - shaded) * np.clip(haze, 0, 1)[..., None]
        return _averaged(shaded, (seen | outline).astype(np.float64))

    def _lit(self, solids: list[_Solid], inside: NDArray[np.bool_], depth: Array, thickness: float) -> Array:
        """Colours of the pixels ``inside`` by diffuse light, glints, and the shade of hollows."""
        rows, columns = np.nonzero(inside)
        owner, height = self.owner[rows, columns], depth[rows, columns]
        origin, axis, colour = (
            np.stack([getattr(solid, name) for solid in solids])[owner]
            for name in ("origin", "axis", "colour")
        )
        normal = np.stack([self.centre[columns], self.centre[rows], height], axis=1) - origin
        normal -= np.einsum("pi,pi->p", normal, axis)[:, None] * axis
        normal /= np.array([solid.radius for solid in solids])[owner][:, None]
        # what lies in a hollow gets less light: its surroundings are nearer to the viewer. This is smooth,
        # so a coarse grid does
        coarse = gaussian_filter(depth[::_COARSE, ::_COARSE], thickness / (_COARSE * self.pixel))
        hollow = np.clip((coarse[rows // _COARSE, columns // _COARSE] - height) / thickness, 0, 1)
        diffuse = np.maximum(normal @ _LIGHT, 0.0)
        glint = np.maximum(normal @ _HALFWAY, 0.0) ** 40
        light = (0.40 + 0.66 * diffuse) * (1 - 0.45 * hollow)
        return np.asarray(np.clip(colour * light[:, None] + 0.30 * glint[:, None], 0, 1))

    def _window(self, start: Array, end: Array, solid: _Solid) -> tuple[tuple[slice, slice], Array, Array]:
        """The part of the image that a solid may cover, with x and y there relative to its origin."""
        low, high = np.minimum(start, end)[:2] - solid.radius, np.maximum(start, end)[:2] + solid.radius
        columns, rows = (
            slice(*np.searchsorted(self.centre, [a, b]).tolist()) for a, b in zip(low, high, strict=True)
        )
        x, y = self.centre[columns] - solid.origin[0], self.centre[rows] - solid.origin[1]
        return (rows, columns), x[None, :], y[:, None]

    def _put(self, window: tuple[slice, slice], hit: NDArray[np.bool_], depth: Array, number: int) -> None:
        nearer = hit & (depth > self.depth[window])
        self.depth[window][nearer] = depth[nearer]
        self.owner[window][nearer] = number


def _averaged(colour: Array, alpha: Array) -> Array:
    """Squares of pixels averaged into one, colours by their alpha; rows turned so that y points up."""
    size = alpha.shape[0] // _OVERSAMPLING
    shape = (size, _OVERSAMPLING, size, _OVERSAMPLING)
    cover = alpha.reshape(shape).mean((1, 3))
    mixed = (colour * alpha[..., None]).reshape(*shape, 3).mean((1, 3))
    mixed /= np.maximum(cover, 1e-12)[..., None]
    return np.asarray(np.concatenate([mixed, cover[..., None]], -1)[::-1])
