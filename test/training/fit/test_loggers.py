"""What a training tells TensorBoard, Weights & Biases and MLflow: the real packages, offline; skipped where there are none."""

import sys
from pathlib import Path

import pytest
from tiny_training import CLASSES, SIZE, architecture

torch = pytest.importorskip('torch')

from training.errors import FitError  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob, identity  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402

SETTINGS = {'image_size': SIZE, 'batch': 4, 'steps': 2, 'warmup_steps': 0, 'precision': 'float32'}


def job(pictures, *loggers):
    return FitJob(architecture(), CLASSES, pictures, FitSettings(**SETTINGS, loggers=loggers))


def test_no_result_depends_on_who_listens(pictures, tmp_path):
    assert identity(job(pictures)) == identity(job(pictures, 'tensorboard', 'wandb'))
    fit_detector(job(pictures), tmp_path)
    assert not (tmp_path / 'tensorboard').exists()
    assert (tmp_path / 'log.csv').read_text().startswith('step,epoch,learning_rate,loss,task')


@pytest.mark.parametrize('package', ['wandb', 'mlflow'])
def test_a_package_that_is_not_there_is_named(pictures, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FitError, match=f'loggers: {package} needs its package: pip install {package}'):
        fit_detector(job(pictures, package), tmp_path)


def test_mlflow_has_every_figure_of_every_step(pictures, tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_EXPERIMENT_NAME', 'tiny')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    mlflow.set_tracking_uri((tmp_path / 'mlruns').as_uri())
    fit_detector(job(pictures, 'mlflow'), tmp_path / 'run')
    client = mlflow.tracking.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name('tiny').experiment_id])
    assert found.info.run_id == (tmp_path / 'run/mlflow.id').read_text()
    assert found.data.params['image_size'] == str(SIZE)
    assert {'task', 'task.box_loss', 'gradient', 'seconds'} <= found.data.metrics.keys()
    history = client.get_metric_history(found.info.run_id, 'loss')
    logged = [float(line.split(',')[3]) for line in (tmp_path / 'run/log.csv').read_text().splitlines()[1:]]
    assert [metric.step for metric in history] == [1, 2]
    assert [metric.value for metric in history] == pytest.approx(logged, rel=1e-6)


def test_wandb_keeps_a_run_offline(pictures, tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    for name, value in {'WANDB_MODE': 'offline', 'WANDB_SILENT': 'true', 'WANDB_PROJECT': 'tiny'}.items():
        monkeypatch.setenv(name, value)
    fit_detector(job(pictures, 'wandb'), tmp_path)
    (run,) = Path(tmp_path / 'wandb').glob('offline-run-*')
    assert run.name.endswith((tmp_path / 'wandb.id').read_text())
    assert next(run.glob('*.wandb')).stat().st_size > 0
