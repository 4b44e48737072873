"""A picture of a micrograph with its picks and their scores."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from posterion.data.atomic import replacing
from posterion.micrographs.picking import Picks

__all__ = ["draw_overlay"]

_LONG_EDGE_PX = 1200
_CAPTION_PX = 26
_CIRCLE, _SCORE, _LEFT_OUT = (90, 235, 120), (255, 225, 90), (235, 70, 60)


def draw_overlay(path: str | Path, picks: Picks, diameter_angstrom: float, title: str) -> None:
    """Draw the searched micrograph, each pick as a circle of the diameter with its score, what was left out.

    Parameters
    ----------
    path : PNG file to write, whole or not at all
    picks : of one micrograph
    diameter_angstrom : of the circles
    title : written above the picture
    """
    grey = picks.reduced.values_yx
    zoom = _LONG_EDGE_PX / max(grey.shape)
    size = (round(grey.shape[1] * zoom), round(grey.shape[0] * zoom))
    low, high = np.percentile(grey, [0.5, 99.5])
    shade = np.clip((grey - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)
    picture = Image.fromarray(shade).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    picture = _tinted(picture, picks.left_out)
    drawing = ImageDraw.Draw(picture)
    radius = diameter_angstrom / picks.reduced.pixel_size_angstrom * zoom / 2
    step_y, step_x = picks.reduced.step_px
    font = ImageFont.load_default(max(9, min(16, round(radius * 0.7))))
    for x, y, score in zip(picks.x_px_i, picks.y_px_i, picks.score_i, strict=True):
        at_x, at_y = (x / step_x + 0.5) * zoom, (y / step_y + 0.5) * zoom
        drawing.ellipse(
            (at_x - radius, at_y - radius, at_x + radius, at_y + radius), outline=_CIRCLE, width=2
        )
        drawing.text((at_x, at_y), f"{score:.1f}", fill=_SCORE, font=font, anchor="mm")
    _save(_captioned(picture, title), path)


def _tinted(picture: Image.Image, left_out: NDArray[np.bool_]) -> Image.Image:
    mask = Image.fromarray(np.where(left_out, 90, 0).astype(np.uint8)).resize(picture.size)
    return Image.composite(Image.new("RGB", picture.size, _LEFT_OUT), picture, mask)


def _captioned(picture: Image.Image, title: str) -> Image.Image:
    page = Image.new("RGB", (picture.width, picture.height + _CAPTION_PX), (255, 255, 255))
    page.paste(picture, (0, _CAPTION_PX))
    ImageDraw.Draw(page).text((6, _CAPTION_PX / 2), title, fill=(30, 30, 30), anchor="lm", font_size=15)
    return page


def _save(picture: Image.Image, path: str | Path) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=3)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
