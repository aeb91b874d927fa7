"""Names and settings of losses as recipes write them."""

import pytest

torch = pytest.importorskip('torch')

from training.distill.losses import LOSSES, make, make_levels  # noqa: E402
from training.errors import LossError  # noqa: E402


@pytest.mark.parametrize(
    ('name', 'settings', 'message'),
    [
        ('fit_net', {}, "no loss 'fit_net': did you mean 'fitnet'"),
        ('xyz', {}, "no loss 'xyz'; losses are ab, at"),
        ('kd', {'temprature': 2}, "kd has no setting 'temprature': did you mean 'temperature'"),
        ('sp', {'power': 2}, "sp has no setting 'power'; settings are none"),
        ('mgd', {'student_channels': 4}, 'mgd needs the setting teacher_channels'),
        ('kd', {'temperature': 0}, 'temperature must be above 0, not 0'),
        ('cwd', {'preset': 'mine'}, "no preset 'mine'; presets are paper, repo"),
        ('mgd', {'student_channels': 4, 'teacher_channels': 4, 'masked': 65}, 'masked is a share from 0 to 1'),
        ('ft', {'student_channels': 4, 'teacher_channels': 4, 'ratio': 0.1}, 'leaves no channel of 4'),
        ('fgfi', {'strides': [8]}, 'lists of one length'),
        ('fgfi', {'student_channels': [8], 'teacher_channels': [8]}, 'lists of one length'),
        ('ab', {'student_channels': [8], 'teacher_channels': [8, 8]}, '1 student layers, but 2 of the teacher'),
        ('fitnet', {'student_channels': 4, 'teacher_channels': 8, 'adapter': 'mlp'}, "there is no adapter 'mlp'"),
        ('crd', {'student_features': 4, 'teacher_features': 4, 'class_ids': [1, 1]}, 'all samples are of one class'),
    ],
)
def test_what_is_wrong_is_said(name, settings, message):
    with pytest.raises(LossError, match=message):
        make(name, **settings)


@pytest.mark.parametrize('name', LOSSES)
def test_the_document_lists_every_loss(repository, name):
    assert f'| `{name}` |' in (repository / 'docs' / 'losses.md').read_text(encoding='utf-8')


@pytest.mark.parametrize(('preset', 'temperature', 'weights'), [('paper', 4, (50, 3)), ('repo', 1, (5, 10))])
def test_cwd_presets(preset, temperature, weights):
    loss = make('cwd', preset=preset)
    assert loss.temperature == temperature
    assert (loss.preset.feature_weight, loss.preset.logit_weight) == weights


def levels(*channels):
    return [torch.rand(2, count, 8 >> level, 8 >> level) for level, count in enumerate(channels)]


@pytest.mark.parametrize('name', ['fitnet', 'at', 'cwd', 'pkd', 'mgd', 'nst', 'vid', 'ft'])
def test_losses_of_maps_stand_on_every_level(name):
    loss = make_levels(name, (2, 4), (4, 8), adapter='conv')
    students, teachers = levels(2, 4), levels(4, 8)
    for student in students:
        student.requires_grad_()
    loss(students, teachers).backward()
    assert all(student.grad.abs().sum() > 0 for student in students)
    # One set of parameters a level: adapters are found by whoever asks the loss for its parameters.
    trained = [key for key, value in loss.named_parameters() if value.grad is not None]
    assert {key.split('.')[1] for key in trained} == {'0', '1'}


def test_levels_are_summed():
    students, teachers = levels(2, 4), levels(2, 4)
    wanted = sum(make('pkd')(*pair) for pair in zip(students, teachers, strict=True))
    torch.testing.assert_close(make_levels('pkd', (2, 4), (2, 4))(students, teachers), wanted)


def test_levels_have_weights_and_settings_of_their_own():
    """The finer level, where the small objects are, may count more and be softer."""
    students, teachers = levels(2, 4), levels(2, 4)
    loss = make_levels(
        'cwd', (2, 4), (2, 4), level_weights=(3, 0.5), level_settings=[{'temperature': 4}, {}], temperature=2
    )
    wanted = 3 * make('cwd', temperature=4)(students[0], teachers[0])
    wanted += 0.5 * make('cwd', temperature=2)(students[1], teachers[1])
    torch.testing.assert_close(loss(students, teachers), wanted)


@pytest.mark.parametrize('name', ['cwd', 'fitnet', 'mgd'])
def test_a_pruned_student_is_compared_with_the_channels_it_kept(name):
    """A student whose channels equal the teacher's kept ones has nothing to learn."""
    loss = make_levels(name, (2, 3), (4, 8), kept=[[0, 3], [1, 2, 7]])
    teachers = levels(4, 8)
    students = [teachers[0][:, [0, 3]], teachers[1][:, [1, 2, 7]]]
    value = loss(students, teachers)
    if name == 'mgd':
        assert value > 0
    else:
        assert value.item() == pytest.approx(0, abs=1e-7)
        assert not list(loss.parameters())


@pytest.mark.parametrize(
    ('name', 'student', 'teacher', 'settings', 'message'),
    [
        ('cwd', (2, 4), (4, 8), {}, 'has 2 channels and the teacher 4: choose an adapter'),
        ('cwd', (2, 4), (2,), {}, 'the student has 2 levels'),
        ('cwd', (2, 4), (2, 4), {'level_weights': [1]}, 'the student has 2 levels'),
        ('cwd', (2, 4), (2, 4), {'level_settings': [{'temperatur': 1}, {}]}, "did you mean 'temperature'"),
        ('kd', (2,), (2,), {}, 'kd takes logits, not one map of each level'),
        ('cwd', (2,), (4,), {'kept': [[0, 1, 2]]}, 'has 2 channels and the teacher 3'),
        ('cwd', (2,), (4,), {'kept': [[0, 0]]}, 'must be different indices'),
        ('cwd', (), (), {}, 'no feature level'),
    ],
)
def test_levels_that_do_not_fit_are_refused(name, student, teacher, settings, message):
    with pytest.raises(LossError, match=message):
        make_levels(name, student, teacher, **settings)


def test_levels_must_all_be_given():
    with pytest.raises(LossError, match='2 levels, but 1 maps'):
        make_levels('cwd', (2, 4), (2, 4))(levels(2), levels(2))


def test_a_kept_channel_that_the_teacher_lacks_is_named():
    loss = make_levels('cwd', (2,), (4,), kept=[[0, 9]])
    with pytest.raises(LossError, match='channel 9 is kept, but the teacher has 4'):
        loss(levels(2), levels(4))
