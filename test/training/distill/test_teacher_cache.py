"""Kept answers of teachers: a run that hears them is the run that asks, and nothing damaged is ever heard."""

import dataclasses
import errno
import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_training import CLASSES, SIZE, architecture, columns, write_network, write_pictures

torch = pytest.importorskip('torch')

from training.distill import teacher_cache  # noqa: E402
from training.distill.outputs import Outputs  # noqa: E402
from training.distill.settings import DistillSettings, TermSettings  # noqa: E402
from training.distill.teacher import Teacher  # noqa: E402
from training.distill.teacher_cache import HEAD, Replay  # noqa: E402
from training.errors import FitError  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402

SETTINGS = FitSettings(
    image_size=SIZE, batch=2, unlabelled_batch=1, steps=3, warmup_steps=0, precision='float32', data_seed=7
)
TERMS = (
    TermSettings('cwd'),
    TermSettings('bckd', weight=1.0),
    TermSettings('ld'),
    TermSettings('cwd', on='scores', weight=1.0),
)
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def both(pictures, tmp_path_factory):
    """Pictures with labels and without."""
    return pictures[:8], write_pictures(tmp_path_factory.mktemp('unlabelled'), 3, seed=9)


def job(both, teacher, answers, *, terms=TERMS, settings=SETTINGS, seed=0, width=0.125, **distill):
    labelled, unlabelled = both
    return FitJob(
        architecture(width=width), CLASSES, labelled, settings, seed=seed, unlabelled=unlabelled, teacher=teacher,
        distill=DistillSettings(terms, **{'cache': True, **distill}), answers=answers,
    )  # fmt: skip


@pytest.fixture(scope='module')
def kept(both, teacher, tmp_path_factory):
    """A folder with the answers of one run, and that run."""
    folder = tmp_path_factory.mktemp('kept')
    return folder / 'answers', fit_detector(job(both, teacher, folder / 'answers'), folder / 'run')


@pytest.fixture
def asked(monkeypatch):
    """How often a teacher is asked."""
    real, calls = Teacher.__call__, []
    monkeypatch.setattr(Teacher, '__call__', lambda self, images: calls.append(len(images)) or real(self, images))
    return calls


def assert_same(first, second):
    assert first.log.read_bytes() == second.log.read_bytes()
    assert first.weights.read_bytes() == second.weights.read_bytes()


def test_a_run_that_keeps_is_one_that_does_not(both, teacher, kept, asked, tmp_path):
    assert_same(fit_detector(job(both, teacher, None, cache=False), tmp_path), kept[1])
    assert asked == [3] * 3


def test_a_run_that_hears_what_was_kept_is_the_same_and_asks_nobody(both, teacher, kept, asked, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert_same(fit_detector(job(both, teacher, kept[0]), tmp_path), kept[1])
    assert not asked
    assert 'answers to 3 of 3 batches are kept' in caplog.text


@pytest.mark.parametrize('precision', ['bfloat16', 'float32'])
def test_the_teachers_own_precision_is_kept_bit_by_bit(both, teacher, asked, tmp_path, precision):
    settings = dataclasses.replace(SETTINGS, precision=precision, steps=2)
    whole = job(both, teacher, tmp_path / 'answers', settings=settings, terms=TERMS[:2])
    results = [
        fit_detector(dataclasses.replace(whole, distill=whole.distill), tmp_path / name) for name in ('first', 'second')
    ]
    live = fit_detector(
        dataclasses.replace(whole, distill=dataclasses.replace(whole.distill, cache=False)), tmp_path / 'live'
    )
    assert_same(*results)
    assert_same(live, results[0])
    assert len(asked) == 4
    values = sum(file.stat().st_size for file in (tmp_path / 'answers').rglob('*/model.15/*'))
    assert values // 2 == pytest.approx(3 * 48 * 8 * 8 * (2 if precision == 'bfloat16' else 4), rel=0.05)


@pytest.mark.parametrize(
    'changes',
    [
        {'seed': 5},
        {'terms': TERMS[:1]},
        {'terms': TERMS[1:3], 'seed': 2},
        {'width': 0.0625},
        {'settings': dataclasses.replace(SETTINGS, learning_rate=0.01, accumulate=1, workers=1)},
    ],
    ids=['another seed', 'another arm', 'another arm and seed', 'another student', 'another rate'],
)
def test_arms_and_seeds_and_students_share_what_is_kept(both, teacher, kept, asked, tmp_path, changes):
    result = fit_detector(job(both, teacher, kept[0], **changes), tmp_path)
    assert not asked
    assert result.weights.read_bytes() != kept[1].weights.read_bytes()


@pytest.mark.parametrize(
    'settings',
    [
        dataclasses.replace(SETTINGS, data_seed=8, steps=1),
        dataclasses.replace(SETTINGS, batch=3, steps=1),
        dataclasses.replace(SETTINGS, augment=dataclasses.replace(SETTINGS.augment, fliplr=0.4), steps=1),
    ],
    ids=['another data seed', 'other batches', 'another augmentation'],
)
def test_other_pictures_are_asked_about(both, teacher, kept, asked, tmp_path, settings):
    fit_detector(job(both, teacher, kept[0], settings=settings), tmp_path)
    assert len(asked) == 1


def test_a_longer_run_asks_only_about_what_is_new(both, teacher, asked, tmp_path):
    """The steps without mosaics lie at another place there; they are kept beside the others."""
    brief = dataclasses.replace(SETTINGS, augment=dataclasses.replace(SETTINGS.augment, close_mosaic=0.5), steps=2)
    fit_detector(job(both, teacher, tmp_path / 'a', settings=brief, terms=TERMS[:1]), tmp_path / '1')
    fit_detector(
        job(both, teacher, tmp_path / 'a', settings=dataclasses.replace(brief, steps=4), terms=TERMS[:1]),
        tmp_path / '2',
    )
    assert len(asked) == 2 + 3
    fit_detector(job(both, teacher, tmp_path / 'a', settings=brief, terms=TERMS[:1], seed=1), tmp_path / '3')
    assert len(asked) == 5


def test_another_teacher_is_asked(both, kept, asked, tmp_path):
    other = write_network(tmp_path / 'other.pt', architecture(width=0.1875), seed=12)
    fit_detector(job(both, other, kept[0], settings=dataclasses.replace(SETTINGS, steps=1)), tmp_path)
    assert len(asked) == 1


def test_pictures_that_changed_under_their_names_are_asked_about(teacher, asked, tmp_path, caplog):
    own = write_pictures(tmp_path / 'own', 4), write_pictures(tmp_path / 'other', 2)
    settings = dataclasses.replace(SETTINGS, steps=1)
    fit_detector(job(own, teacher, tmp_path / 'a', settings=settings), tmp_path / '1')
    write_pictures(tmp_path / 'own', 4, seed=3)
    fit_detector(job(own, teacher, tmp_path / 'a', settings=settings), tmp_path / '2')
    assert len(asked) == 2
    assert 'is made again: it is of other pictures' in caplog.text


def test_rounded_answers_are_heard_from_the_first_run_on(both, teacher, kept, asked, tmp_path):
    first, second = (
        fit_detector(job(both, teacher, tmp_path / 'answers', cache_precision='float16'), tmp_path / name)
        for name in 'ab'
    )
    assert len(asked) == 3
    assert_same(first, second)
    assert first.log.read_bytes() != kept[1].log.read_bytes()
    assert columns(first.log)['task'][0] == columns(kept[1].log)['task'][0]


def test_what_does_not_fit_is_refused_before_it_is_written(both, teacher, tmp_path, monkeypatch):
    with pytest.raises(FitError, match=r'to 3 batches take 0\.000\d+ GB, and .* more than cache_gb, 0\.0001\. Raise'):
        fit_detector(job(both, teacher, tmp_path / 'answers', cache_gb=1e-4), tmp_path / 'run')
    monkeypatch.setattr(teacher_cache.shutil, 'disk_usage', lambda folder: _Usage)
    with pytest.raises(FitError, match='the disk of .* has 1e-05 GB free'):
        fit_detector(job(both, teacher, tmp_path / 'answers'), tmp_path / 'run')
    assert not [file for file in (tmp_path / 'answers').rglob('*') if file.is_file()]


class _Usage:
    free = 10_000


# Files


def said():
    """An answer as it comes: maps in the layout of convolutions, a head with two kinds of values, and its grids."""
    draw = torch.Generator().manual_seed(3)  # its own: torch's is shared by all threads

    def values(*shape):
        return torch.randn(shape, generator=draw)

    maps = {'model.15': values(2, 6, 4, 4).to(memory_format=torch.channels_last)}
    head = {'scores': values(2, 3, 9).transpose(1, 2), 'boxes': values(2, 8, 9), 'feats': [maps['model.15']]}
    return Outputs(maps, {'one2many': head})


def stored(folder, dtype=torch.float32):
    kept = Replay(folder, ['model.15', HEAD], dtype)
    return kept, kept.keep('0', 'these', said())


def test_an_answer_comes_back_as_it_was(tmp_path):
    kept, _ = stored(tmp_path)
    found, wanted = kept.recall('0', 'these', CPU), said()
    pairs = [(found.maps['model.15'], wanted.maps['model.15'])]
    pairs += [(found.branches['one2many'][name], wanted.branches['one2many'][name]) for name in ('scores', 'boxes')]
    for value, original in pairs:
        assert torch.equal(value, original)
        assert value.stride() == original.stride()
    assert [of.shape for of in found.branches['one2many']['feats']] == [(2, 6, 4, 4)]
    assert kept.recall('1', 'these', CPU) is None
    sizes = {file.parent.name: file.stat().st_size for file in tmp_path.rglob('0')}
    assert all(0 < sizes[item] - size < 500 for item, size in kept.size_of(wanted).items())


def test_what_a_narrow_precision_would_lose_is_kept_wide(tmp_path):
    kept, _ = stored(tmp_path, torch.bfloat16)
    assert torch.equal(kept.recall('0', 'these', CPU).maps['model.15'], said().maps['model.15'])


def test_what_rounding_cannot_hold_is_refused(tmp_path):
    large = Outputs({'model.15': torch.full((1, 2, 4, 4), 1e6)}, {})
    with pytest.raises(FitError, match=r'puts out 1e\+06, beyond torch\.float16: leave out cache_precision'):
        Replay(tmp_path, ['model.15'], torch.float32, torch.float16).keep('0', 'these', large)


def lie(file, **changes):
    """Rewrite a header, its hash included."""
    line, body = file.read_bytes().split(b'\n', 1)
    header = {**json.loads(line), **changes}
    header['sha256'] = teacher_cache._digest(header['tensors'], body)
    file.write_bytes(json.dumps(header).encode() + b'\n' + body)


HUGE = [{'name': 'map', 'shape': [1 << 40], 'order': [0], 'dtype': 'float32'}]


@pytest.mark.parametrize(
    'damage',
    [
        lambda file: file.write_bytes(b''),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes() + b'0'),
        lambda file: file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])),
        lambda file: file.write_bytes(b'\x80\x04no json\n'),
        lambda file: file.write_bytes(b'[' * 100_000),
        lambda file: lie(file, tensors=HUGE),
        lambda file: lie(file, tensors=[{**HUGE[0], 'shape': [-2, -96]}]),
        lambda file: lie(file, tensors=[{**HUGE[0], 'shape': [192], 'order': [5]}]),
        lambda file: lie(file, tensors=[{**HUGE[0], 'shape': [192], 'dtype': 'object'}]),
        lambda file: lie(file, tensors=3),
    ],
    ids=['empty', 'short', 'long', 'a bit', 'no json', 'deep', 'huge', 'negative', 'order', 'dtype', 'no list'],
)
def test_what_is_damaged_is_made_again(tmp_path, damage, caplog):
    kept, wanted = stored(tmp_path)
    damage(tmp_path / 'model.15' / '0')
    assert kept.recall('0', 'these', CPU) is None
    assert 'is made again' in caplog.text
    kept.keep('0', 'these', said())
    assert torch.equal(kept.recall('0', 'these', CPU).maps['model.15'], wanted.maps['model.15'])


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(teacher_cache.os, 'replace', full)
    with pytest.raises(FitError, match=r'No space left on device; is the disk full\?'):
        stored(tmp_path)
    assert not [file for file in tmp_path.rglob('*') if file.is_file()]


def test_many_may_write_and_read_at_once(tmp_path):
    wanted = said().maps['model.15']

    def one(number):
        kept, _ = stored(tmp_path)
        found = kept.recall('0', 'these', CPU)
        return found is not None and torch.equal(found.maps['model.15'], wanted)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(24)))
    assert sorted(file.name for file in tmp_path.rglob('*') if file.is_file()) == ['0', '0']
