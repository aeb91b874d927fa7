"""What a training refuses: teachers that cannot teach, layers that do not fit, settings out of range."""

import dataclasses

import pytest
from tiny_training import CLASSES, SIZE, architecture

torch = pytest.importorskip('torch')

from training.distill.settings import DistillSettings, TermSettings  # noqa: E402
from training.distill.teacher import Teacher  # noqa: E402
from training.errors import DataError, FitError, LossError, WeightsError  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.models.weights import build_network, save_weights  # noqa: E402

SETTINGS = FitSettings(image_size=SIZE, batch=4, steps=3, warmup_steps=0, precision='float32', ema_decay=0.0)


def job(pictures, teacher, term):
    return FitJob(architecture(), CLASSES, pictures, SETTINGS, teacher=teacher, distill=DistillSettings((term,)))


def test_a_teacher_by_its_architecture_alone_is_refused(pictures, tmp_path):
    """A yaml file names a network and holds no weights to teach with."""
    file = tmp_path / 'teacher.yaml'
    file.write_text('nc: 2\nbackbone: []\nhead: []\n')
    with pytest.raises(WeightsError, match=r'teacher\.yaml'):
        Teacher(file, CLASSES, torch.device('cpu'), torch.float32)


def test_a_teacher_of_other_classes_is_refused(pictures, tmp_path):
    file = tmp_path / 'teacher.pt'
    save_weights(build_network(architecture(), ('tall', 'wide')), file, ('tall', 'wide'))
    with pytest.raises(FitError, match='knows the classes tall, wide, the student wide, tall'):
        fit_detector(job(pictures, file, TermSettings('cwd')), tmp_path)


def test_a_missing_teacher_is_refused(pictures, tmp_path):
    with pytest.raises(WeightsError, match='does not exist: train it first'):
        fit_detector(job(pictures, tmp_path / 'none.pt', TermSettings('cwd')), tmp_path)


def test_a_file_that_is_no_teacher_is_refused(pictures, tmp_path):
    file = tmp_path / 'teacher.pt'
    file.write_bytes(b'no weights at all')
    with pytest.raises(WeightsError, match=r'teacher\.pt'):
        fit_detector(job(pictures, file, TermSettings('cwd')), tmp_path)


def test_a_teacher_without_terms_is_refused(pictures, teacher):
    with pytest.raises(FitError, match='belong together'):
        FitJob(architecture(), CLASSES, pictures, SETTINGS, teacher=teacher)


def test_layers_of_different_stride_are_refused(pictures, teacher, tmp_path):
    term = TermSettings('cwd', student_layers=(15,), teacher_layers=(18,))
    with pytest.raises(
        LossError, match=r'student at model\.15 has 8 × 8 cells, that of the teacher at model\.18 4 × 4'
    ):
        fit_detector(job(pictures, teacher, term), tmp_path)


def test_channels_that_do_not_fit_are_refused(pictures, teacher, tmp_path):
    with pytest.raises(LossError, match='channels'):
        fit_detector(job(pictures, teacher, TermSettings('cwd', adapter='identity')), tmp_path)


def test_a_layer_that_is_not_there_is_refused(pictures, teacher, tmp_path):
    with pytest.raises(LossError, match=r'no layer model\.99; its layers are model\.0 to model\.22'):
        fit_detector(job(pictures, teacher, TermSettings('cwd', student_layers=(99,), teacher_layers=(15,))), tmp_path)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'image_size': 100}, 'multiple of 32'),
        ({'epochs': 2.0}, 'either epochs or steps'),
        ({'steps': 0}, 'either epochs or steps'),
        ({'optimizer': 'adamm'}, "did you mean 'adamw'"),
        ({'batch': 0}, 'batch must be from 1'),
        ({'learning_rate': 0.0}, 'above 0'),
        ({'final_share': 2.0}, 'final_share must be from 0 to 1'),
        ({'freeze': 0}, 'freeze must be from 1'),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **changes)


def test_a_term_is_refused_by_name():
    with pytest.raises(LossError, match="did you mean 'cwd'"):
        TermSettings('cwdd')
    with pytest.raises(ValueError, match='as many student_layers'):
        TermSettings('cwd', student_layers=(1,))
    with pytest.raises(ValueError, match='at least one loss'):
        DistillSettings(())


def test_no_images(tmp_path):
    with pytest.raises(DataError, match='no image to train on'):
        fit_detector(FitJob(architecture(), CLASSES, [], SETTINGS), tmp_path)
