"""In which precision the layers of a network are trained."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

PRECISIONS = ('auto', 'float32', 'bfloat16', 'float16')


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What autocast is to use; None is plain float32.

    Args:
        precision: of FitSettings; `auto` is bfloat16 where the device computes in it.
        device: of the training.
    """
    if precision == 'auto':
        return torch.bfloat16 if has_bfloat16(device) else None
    return {'float32': None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}[precision]


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """Layers compute in that type; None leaves them as they are."""
    return torch.autocast(device.type, dtype) if dtype is not None else contextlib.nullcontext()


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device is quicker in bfloat16 than in float32."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = Path('/proc/cpuinfo')
    return cpu.is_file() and 'avx512_bf16' in cpu.read_text(encoding='utf-8')
