"""Letterbox: resize an image straight into the network's input buffer, and take boxes there and back.

Coordinates are continuous: pixel i covers i … i + 1, so an image reaches from 0 to its width. That is also how OpenCV's
resize places its samples, so a box maps by one exact scale and offset for each axis.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from kd_perception.detection.detections import FloatArray
from kd_perception.detection.image import BgrImage

MODES = ('letterbox', 'stretch')


class Letterbox:
    """The geometry between source images of one size and a network input of another.

    Attributes:
        source_size: width, height of the images in pixels.
        input_size: width, height of the network input in pixels.
        mode: `letterbox` keeps the aspect ratio, centers the image and pads the rest; `stretch` fills the whole input.
        resized: width, height of the image inside the input, in whole pixels.
        scale_x: input pixels per source pixel, of the resize as it is really done: `resized[0] / source_size[0]`.
        scale_y: the same down the image.
        offset_x: input pixels to the left of the image.
        offset_y: input pixels above the image.
    """

    def __init__(
        self, source_size: tuple[int, int], input_size: tuple[int, int], mode: str = 'letterbox', pad: int = 114
    ) -> None:
        """Args: as the attributes; `pad` is the gray value of the border, 0 … 255.

        Raises:
            ValueError: a size is not positive, the mode is unknown or the pad is no gray value.
        """
        if min(*source_size, *input_size) < 1:
            raise ValueError(f'cannot letterbox {source_size} into {input_size}: sizes must be positive')
        if mode not in MODES:
            raise ValueError(f'resize mode {mode!r} is not one of {", ".join(MODES)}')
        if not 0 <= pad <= 255:
            raise ValueError(f'pad {pad} is not in 0 … 255')
        self.source_size = source_size
        self.input_size = input_size
        self.mode = mode
        self.resized = input_size if mode == 'stretch' else _fit(source_size, input_size)
        self.scale_x = self.resized[0] / source_size[0]
        self.scale_y = self.resized[1] / source_size[1]
        self.offset_x = (input_size[0] - self.resized[0]) // 2
        self.offset_y = (input_size[1] - self.resized[1]) // 2
        self._scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        self._offset = np.array([self.offset_x, self.offset_y] * 2, np.float32)
        self._limit = np.array(source_size * 2, np.float32)
        self._pad = pad
        self._padded: BgrImage | None = None

    def apply(self, image: BgrImage, out: BgrImage) -> BgrImage:
        """Resize `image` into its place in `out`.

        The border is written only when `out` is not the buffer of the call before, so nobody else may write to it.

        Args:
            image: uint8 (height, width, 3) of `source_size`; rows may have a step.
            out: uint8 (height, width, 3) of `input_size`.

        Returns:
            `out`.

        Raises:
            ValueError: an image or a buffer of another size.
        """
        if image.shape != (self.source_size[1], self.source_size[0], 3):
            raise ValueError(
                f'image is {image.shape}, the letterbox is for {self.source_size[0]}x{self.source_size[1]} pixels'
            )
        if out.shape != (self.input_size[1], self.input_size[0], 3) or out.dtype != np.uint8:
            raise ValueError(
                f'buffer is {out.dtype} {out.shape}, the input has {self.input_size[0]}x{self.input_size[1]} pixels'
            )
        width, height = self.resized
        place = out[self.offset_y : self.offset_y + height, self.offset_x : self.offset_x + width]
        if self._padded is not out:
            if self.resized != self.input_size:
                out.fill(self._pad)
            self._padded = out
        if self.resized == self.source_size:
            np.copyto(place, image)
        else:
            cv2.resize(image, self.resized, dst=place, interpolation=cv2.INTER_LINEAR)
        return out

    def to_input(self, boxes: npt.ArrayLike) -> FloatArray:
        """Boxes (N, 4) x1, y1, x2, y2 in source pixels → float32 (N, 4) in input pixels."""
        return np.asarray(boxes, np.float32).reshape(-1, 4) * self._scale + self._offset

    def to_source(self, boxes: npt.ArrayLike) -> FloatArray:
        """Boxes (N, 4) x1, y1, x2, y2 in input pixels → float32 (N, 4) in source pixels, clipped to the image.

        A box that lies wholly in the border comes out without area.
        """
        source = (np.asarray(boxes, np.float32).reshape(-1, 4) - self._offset) / self._scale
        clipped: FloatArray = np.minimum(np.maximum(source, 0), self._limit)
        return clipped


def _fit(source_size: tuple[int, int], input_size: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the source's aspect ratio inside the input, in whole pixels."""
    ratio = min(input_size[0] / source_size[0], input_size[1] / source_size[1])
    width = min(max(round(source_size[0] * ratio), 1), input_size[0])
    height = min(max(round(source_size[1] * ratio), 1), input_size[1])
    return width, height
