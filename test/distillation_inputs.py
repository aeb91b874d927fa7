"""The tensors on which the authors' losses were measured: float64, from the flat C-order index of each element."""

import torch

FLOAT = torch.float64


def index(*shape: int) -> torch.Tensor:
    """The flat index of every element."""
    return torch.arange(torch.Size(shape).numel(), dtype=FLOAT).reshape(shape)


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Student and teacher, (2, 3, 4, 4)."""
    i = index(2, 3, 4, 4)
    return torch.sin(0.1 * i), torch.cos(0.1 * i)


def logits() -> tuple[torch.Tensor, torch.Tensor]:
    """Student and teacher, (2, 5)."""
    i = index(2, 5)
    return torch.sin(i), 2 * torch.cos(i)


LABELS = torch.tensor([1, 3])


def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    """Student and teacher, (4, 6)."""
    i = index(4, 6)
    return torch.sin(0.3 * i), torch.cos(0.3 * i)
