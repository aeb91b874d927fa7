"""How the pictures of a training are augmented."""

from __future__ import annotations

from dataclasses import dataclass

from training.ranges import SHARE, Range, one_of
from training.schema import added

BY = ('ultralytics', 'opencv')


@dataclass(frozen=True)
class AugmentSettings:
    """How much of what.

    Attributes:
        mosaic: share of the samples that are made of four images.
        close_mosaic: share of the run at its end without mosaics.
        scale: zoom by 1 ± this.
        translate: shift by up to this share of the image.
        degrees: rotation by up to this.
        fliplr: share flipped left to right.
        flipud: share flipped upside down; 0.5 suits what is seen from above.
        hsv_h: change of hue, a share of the circle.
        hsv_s: change of saturation, a share.
        hsv_v: change of brightness, a share.
        mixup: share of the samples that are the mean of two, the objects of both; ends with the mosaics.
        multi_scale: each batch is seen at a side of 1 ± this, a multiple of 32 pixels; 0.5 is usual.
        by: whose code: `ultralytics` (AGPL-3.0), or `opencv`, of `training.data.transforms`, for networks free of that licence.
    """

    mosaic: float = 1.0
    close_mosaic: float = 0.1
    scale: float = 0.5
    translate: float = 0.1
    degrees: float = 0.0
    fliplr: float = 0.5
    flipud: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    mixup: float = added(0.0)
    multi_scale: float = added(0.0)
    by: str = added('ultralytics')

    def __post_init__(self) -> None:
        SHARE.check(mosaic=self.mosaic, close_mosaic=self.close_mosaic, translate=self.translate)
        SHARE.check(fliplr=self.fliplr, flipud=self.flipud, mixup=self.mixup)
        SHARE.check(hsv_h=self.hsv_h, hsv_s=self.hsv_s, hsv_v=self.hsv_v)
        Range(least=0, most=0.99).check(scale=self.scale, multi_scale=self.multi_scale)
        one_of(BY, by=self.by)
        if self.by == 'opencv' and self.mixup:
            raise ValueError("mixup is Ultralytics': by: opencv does without it")
        Range(least=0, most=180).check(degrees=self.degrees)
