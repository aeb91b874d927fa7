"""The limit that every format's declared size is held to before anything is decoded."""

from __future__ import annotations

from kd_perception.errors import ImageTooLargeError, MalformedImageError


def check_size(name: str, width: int, height: int, max_pixels: int, frames: int = 1) -> None:
    """Refuse what declares no pixels or too many.

    Args:
        name: of the format.
        width: pixels.
        height: pixels.
        max_pixels: of all frames together.
        frames: of an animation, or pages.

    Raises:
        MalformedImageError: no pixels.
        ImageTooLargeError: too many.
    """
    if width <= 0 or height <= 0:
        raise MalformedImageError(f'{name} declares a size of {width}x{height}')
    if width * height * frames > max_pixels:
        several = f' in each of {frames} frames' if frames > 1 else ''
        raise ImageTooLargeError(f'{name} declares {width}x{height} pixels{several}; the limit is {max_pixels} in all')
