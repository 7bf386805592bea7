"""A colour for a new adapter: readable on light and dark, and as far as can be from those that are taken."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

LIGHT, DARK = 1.0, 0.0085  # luminance of the page's backgrounds
# WCAG 2.2 asks for this contrast of graphics.
CONTRAST = 3.0
# How each kind of colour blindness sees linear sRGB: Machado, Oliveira and Fernandes 2009; usual eyes first.
EYES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.3039],
        ],
    ]
)
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def free_color(taken: Sequence[str]) -> str:
    """The hex colour whose nearest taken one is furthest away, for the eye that tells them apart worst.

    taken: hex colours such as "#0072b2". Distances are CIE L*a*b*'s.
    """
    candidates = [color for color in _grid() if _readable(color)]
    if not taken:
        return candidates[0]
    there, new = _seen(taken), _seen(candidates)  # [4, N, 3]
    apart = np.linalg.norm(new[:, :, None] - there[:, None], axis=-1)  # [4, candidates, taken]
    return candidates[int(apart.min(axis=(0, 2)).argmax())]


def _grid() -> list[str]:
    shades = (
        colorsys.hls_to_rgb(hue / 36, light / 40, saturation / 8)
        for saturation in (6, 4, 8, 7, 5, 3, 2)
        for light in range(12, 29)
        for hue in range(36)
    )
    return ["#" + "".join(f"{round(255 * part):02x}" for part in shade) for shade in shades]


def _readable(color: str) -> bool:
    luminance = float(_linear([color])[0] @ TO_XYZ[1])
    return (LIGHT + 0.05) / (luminance + 0.05) >= CONTRAST <= (luminance + 0.05) / (DARK + 0.05)


def _seen(colors: Sequence[str]) -> np.ndarray:
    """L*a*b* (D65) of each colour, for each of the eyes."""
    seen = np.einsum("eij,nj->eni", EYES, _linear(colors)).clip(0, 1)  # [4, N, 3]
    xyz = seen @ TO_XYZ.T / WHITE
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _linear(colors: Sequence[str]) -> np.ndarray:
    value = np.array([[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in colors]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)  # [N, 3]
