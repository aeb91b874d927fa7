"""Contrastive representation distillation with its memory banks and its negatives (CRD)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, distributed, nn

from training.distill.losses.base import DistillationLoss, Takes, Usual, paired_samples, positive, widened
from training.errors import LossError

EPSILON = 1e-7
PERMUTED = 100_000
"""Of so many samples a permutation is drawn, of which K are taken."""


class CRD(DistillationLoss):
    """Contrastive representations: Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020.

    Both features are embedded by a linear head and normalized to length 1. Each embedding is compared with the *other*
    network's memory bank, at its own sample (k = 0) and at K samples of other classes:

        v_nk = exp(⟨bank[candidate_nk], f_n⟩ / T) / Z
        L_v  = −Σ_n [log(v_n0 / (v_n0 + K·P + ε)) + Σ_k≥1 log(K·P / (v_nk + K·P + ε))] / N, P = 1 / samples
        L    = L_student + L_teacher

    Z is mean(exp(…)) · samples of the first training batch, kept from then on, one for each direction. After scoring,
    rows of the banks move: row ← normalize(m · row + (1 − m) · f). Everything that a resumed run needs, Z, the banks and
    the generator of the negatives, is in the state_dict.

    The loss grows with K and the number of samples: choose the weight anew when K changes. Memory: 2 · samples ·
    embedding · 4 bytes. In a distributed run every process has the same banks, in which the samples of all move.

    Shapes: student (N, …) of student_features values, teacher (N, …) of teacher_features, the pooled penultimate
    features; indices (N), each sample's place in `class_ids`. Reduction: sum over the candidates, mean over the batch.

    Args:
        student_features: values of a student's sample.
        teacher_features: values of a teacher's sample.
        class_ids: the class of every training sample.
        embedding: length of the embeddings, the paper's 128.
        negatives: K, the paper's 16384; drawn with replacement only where a sample has fewer.
        temperature: T; the authors' code has 0.07.
        momentum: m, the paper's 0.5.
        seed: of the banks' first content and of the negatives.

    Raises:
        LossError: all samples of one class, or a setting out of its range.

    Example:
        >>> loss = CRD(student_features=8, teacher_features=16, class_ids=[0, 0, 1, 1, 2, 2], negatives=3)
        >>> loss(torch.rand(2, 8), torch.rand(2, 16), torch.tensor([0, 3])).item() > 0
        True
    """

    paper = 'Tian et al. 2020, arXiv 1910.10699'
    takes: ClassVar[Takes] = 'vectors, indices'
    usual = Usual(weight=0.8)

    student_bank: Tensor
    teacher_bank: Tensor
    normalizers: Tensor
    _by_class: Tensor
    _first: Tensor
    _count: Tensor

    def __init__(
        self,
        student_features: int,
        teacher_features: int,
        class_ids: Sequence[int] | Tensor,
        embedding: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        positive(negatives=negatives, temperature=temperature)
        if not 0 <= momentum < 1:
            raise LossError(f'momentum lies from 0 to below 1, not at {momentum}')
        self.negatives = negatives
        self.temperature = temperature
        self.momentum = momentum
        self.student_head = nn.Linear(student_features, embedding)
        self.teacher_head = nn.Linear(teacher_features, embedding)
        self._generator = torch.Generator().manual_seed(seed)
        self._index_classes(torch.as_tensor(class_ids))
        bound = 1 / math.sqrt(embedding / 3)
        for name in ('student_bank', 'teacher_bank'):
            bank = torch.rand(self.samples, embedding, generator=self._generator) * 2 * bound - bound
            self.register_buffer(name, bank)
        # Of the student's and the teacher's scores; 0 until the first training batch.
        self.register_buffer('normalizers', torch.zeros(2))

    def _index_classes(self, class_ids: Tensor) -> None:
        """Sort the samples by class, so that all but one class are what lies around a gap."""
        _, classes, counts = torch.unique(class_ids, return_inverse=True, return_counts=True)
        if len(counts) < 2:
            raise LossError('CRD draws negatives of other classes, but all samples are of one class')
        self.register_buffer('_by_class', classes.argsort(stable=True), persistent=False)
        self.register_buffer('_first', (counts.cumsum(0) - counts)[classes], persistent=False)
        self.register_buffer('_count', counts[classes], persistent=False)

    @property
    def samples(self) -> int:
        """Number of training samples."""
        return len(self._by_class)

    def candidates(self, indices: Tensor) -> Tensor:
        """The samples to compare with: (N, 1 + K), first the sample itself, then K of other classes, drawn anew.

        Raises:
            LossError: an index outside the training set.
        """
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.samples:
            raise LossError(f'sample indices go from 0 to {self.samples - 1}, not to {int(indices.max())}')
        first, count = self._first[indices].tolist(), self._count[indices].tolist()
        places = torch.stack([self._places(*gap) for gap in zip(first, count, strict=True)])
        return torch.cat([indices[:, None], self._by_class[places.to(indices.device)]], 1)

    def _places(self, first: int, count: int) -> Tensor:
        """K places in the order by class that lie outside first … first + count."""
        others = self.samples - count
        if others < self.negatives:
            places = torch.randint(others, (self.negatives,), generator=self._generator)
        elif others <= PERMUTED:
            places = torch.randperm(others, generator=self._generator)[: self.negatives]
        else:
            # A permutation of ImageNet for each of 256 samples takes half a minute; numpy draws K in time that grows with K.
            seed = int(torch.randint(2**62, (), generator=self._generator))
            drawn = np.random.default_rng(seed).choice(others, self.negatives, replace=False, shuffle=False)
            places = torch.from_numpy(drawn)
        return torch.where(places < first, places, places + count)

    def forward(self, student: Tensor, teacher: Tensor, indices: Tensor, candidates: Tensor | None = None) -> Tensor:
        """The loss of pooled features; in training mode the banks move. `candidates` None draws them."""
        student, teacher = paired_samples(student, teacher)
        of_student = F.normalize(widened(self.student_head(student)))
        of_teacher = F.normalize(widened(self.teacher_head(teacher)))
        candidates = self.candidates(indices) if candidates is None else candidates
        scores = torch.stack(
            [
                self._scores(self.teacher_bank, of_student, candidates),
                self._scores(self.student_bank, of_teacher, candidates),
            ]
        )
        loss = self._contrast(scores / self._normalizers_for(scores)[:, None, None])
        if self.training:
            self._move(self.student_bank, of_student, indices)
            self._move(self.teacher_bank, of_teacher, indices)
        return loss

    def _scores(self, bank: Tensor, embedded: Tensor, candidates: Tensor) -> Tensor:
        # One product with the whole bank, of which the candidates' scores are picked: their N · K rows would take
        # hundreds of megabytes. A copy, because the bank moves before the gradient is computed.
        similarity = embedded @ bank.to(embedded.dtype, copy=True).T
        return torch.exp(similarity.gather(1, candidates) / self.temperature)

    def _normalizers_for(self, scores: Tensor) -> Tensor:
        if bool((self.normalizers > 0).all()):
            return self.normalizers.to(scores.dtype)
        first = _mean_of_all(scores.detach().mean((1, 2))) * self.samples
        if self.training:
            self.normalizers.copy_(first)
        return first

    def _contrast(self, scores: Tensor) -> Tensor:
        """The loss of normalized scores (directions, N, 1 + K)."""
        noise = (scores.shape[2] - 1) / self.samples
        own, others = scores[..., 0], scores[..., 1:]
        likelihood = (
            torch.log(own / (own + noise + EPSILON)).sum() + torch.log(noise / (others + noise + EPSILON)).sum()
        )
        return -likelihood / scores.shape[1]

    @torch.no_grad()
    def _move(self, bank: Tensor, embedded: Tensor, indices: Tensor) -> None:
        embedded, indices = _of_all(embedded), _of_all(indices)
        moved = self.momentum * bank[indices] + (1 - self.momentum) * embedded.to(bank.dtype)
        bank[indices] = F.normalize(moved)

    def get_extra_state(self) -> Tensor:
        """The generator of the negatives, for the state_dict."""
        return self._generator.get_state()

    def set_extra_state(self, state: Any) -> None:
        """Continue the negatives where the saved run stood."""
        self._generator.set_state(state.cpu())


def _processes() -> int:
    joined = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if joined else 1


def _of_all(value: Tensor) -> Tensor:
    """The rows of all processes, which have as many each."""
    if _processes() == 1:
        return value
    parts = [torch.empty_like(value) for _ in range(_processes())]
    distributed.all_gather(parts, value.contiguous())
    return torch.cat(parts)


def _mean_of_all(value: Tensor) -> Tensor:
    if _processes() > 1:
        distributed.all_reduce(value)
        value = value / _processes()
    return value
