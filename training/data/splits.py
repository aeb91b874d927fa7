"""Training and validation by session: pictures of one drive, flight or clip are alike and never lie in two splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from training.data.picture import Picture, sessions_by
from training.errors import DataError

WAYS = ('source', 'session')


def assign_splits(
    pictures: Sequence[Picture], *, split_by: str, session_pattern: str, val_share: float, seed: int
) -> tuple[Picture, ...]:
    """Give every picture its split.

    By `source` the splits are the source's own; only where it has no val are sessions taken from train for it. By `session`
    train and val are drawn anew from all sessions. What the source calls test stays test.

    Args:
        pictures: of the source.
        split_by: one of `WAYS`.
        session_pattern: the user's rule for sessions, see `sessions_by`; empty for the format's own.
        val_share: share of pictures that validation gets at least, above 0 and below 1; 0 for none.
        seed: of the draw.

    Raises:
        DataError: there are not two sessions to part.
    """
    if session_pattern:
        sessions = sessions_by(session_pattern, pictures)
        pictures = [replace(picture, session=sessions[picture.name]) for picture in pictures]
    test = [picture for picture in pictures if picture.split == 'test']
    rest = [replace(picture, split=picture.split or 'train') for picture in pictures if picture.split != 'test']
    if val_share and rest and (split_by == 'session' or not any(picture.split == 'val' for picture in rest)):
        validation = draw_validation([picture.session for picture in rest], val_share, seed)
        rest = [replace(picture, split='val' if picture.session in validation else 'train') for picture in rest]
    return (*rest, *test)


def draw_validation(sessions: Sequence[str], share: float, seed: int) -> frozenset[str]:
    """Sessions for validation: drawn until they hold `share` of the pictures, the last one always left for training.

    The draw goes by a hash of each session's name, so that sessions that are added later move few others.

    Args:
        sessions: of every picture.
        share: of the pictures.
        seed: of the draw.

    Raises:
        DataError: fewer than two sessions.
    """
    sizes: dict[str, int] = {}
    for session in sessions:
        sizes[session] = sizes.get(session, 0) + 1
    if len(sizes) < 2:
        raise DataError(
            f'all pictures are of one session, {next(iter(sizes), "")!r}, so validation cannot be parted from training; '
            'tell sessions apart by --session-pattern, or take no validation by --val-share 0'
        )
    order = sorted(sizes, key=lambda session: hashlib.sha256(f'{seed}/{session}'.encode()).digest())
    drawn: list[str] = []
    for session in order[:-1]:
        if sum(sizes[name] for name in drawn) >= share * len(sessions):
            break
        drawn.append(session)
    return frozenset(drawn)


def shared_sessions(pictures: Sequence[Picture]) -> Mapping[str, list[str]]:
    """Sessions that lie in several splits, with those splits."""
    splits: dict[str, set[str]] = {}
    for picture in pictures:
        splits.setdefault(picture.session, set()).add(picture.split)
    return {session: sorted(found) for session, found in sorted(splits.items()) if len(found) > 1}
