"""Steps are made once for their inputs, in order, by one process at a time."""

import json
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from training.errors import RecipeError
from training.steps import Step, Steps, fingerprint, in_order


@dataclass(frozen=True)
class Size:
    width: int


def adding(name: str, settings: object, *needs: Step, log: list[str]) -> Step:
    def make(folder: Path) -> dict[str, str]:
        assert folder.is_dir()
        log.append(name)
        (folder / 'made.txt').write_text(name)
        return {'made': name}

    return Step(name, settings, needs, make)


@pytest.fixture
def steps(tmp_path):
    return Steps(tmp_path / 'out', say=lambda line: None)


def test_a_step_is_made_after_what_it_needs_and_only_once(steps):
    log: list[str] = []
    data = adding('data', Size(4), log=log)
    teacher = adding('teacher', 1, data, log=log)
    student = adding('student', 2, data, teacher, log=log)
    assert steps.made(student) == {'made': 'student'}
    assert log == ['data', 'teacher', 'student']
    steps.made(student)
    assert log == ['data', 'teacher', 'student']


def test_changed_settings_make_anew_what_depends_on_them_and_nothing_else(steps):
    log: list[str] = []

    def chain(width: int) -> Step:
        data = adding('data', 0, log=log)
        return adding('student', 0, data, adding('teacher', Size(width), log=log), log=log)

    steps.made(chain(4))
    log.clear()
    steps.made(chain(8))
    assert log == ['teacher', 'student']
    log.clear()
    steps.made(chain(4))
    assert log == []


def test_a_step_that_failed_is_made_again_in_an_empty_folder(steps):
    found: list[list[str]] = []

    def make(folder: Path) -> dict[str, int]:
        found.append([path.name for path in folder.iterdir()])
        (folder / 'half').write_text('')
        if len(found) == 1:
            raise RecipeError('no')
        return {}

    step = Step('flaky', 0, (), make)
    with pytest.raises(RecipeError):
        steps.made(step)
    steps.made(step)
    assert found == [[], []]


def test_a_step_that_resumes_finds_its_files_again(steps):
    found: list[bool] = []

    def make(folder: Path) -> dict[str, int]:
        found.append((folder / 'checkpoint').exists())
        (folder / 'checkpoint').write_text('')
        if len(found) == 1:
            raise KeyboardInterrupt
        return {}

    step = Step('train', 0, (), make, resumes=True)
    with pytest.raises(KeyboardInterrupt):
        steps.made(step)
    steps.made(step)
    assert found == [False, True]


@pytest.mark.parametrize('content', ['', '{', '[]', '{"key": "another", "result": {}}'])
def test_a_damaged_record_counts_as_not_made(steps, content):
    log: list[str] = []
    step = adding('data', 0, log=log)
    steps.made(step)
    (steps.folder(step) / 'step.json').write_text(content)
    steps.made(step)
    assert log == ['data', 'data']


def test_the_record_tells_settings_needs_and_result(steps):
    log: list[str] = []
    data = adding('data', Size(4), log=log)
    step = adding('teacher', {'a': 1}, data, log=log)
    steps.made(step)
    record = json.loads((steps.folder(step) / 'step.json').read_text())
    assert (record['settings'], record['needs'], record['result']) == (
        {'a': 1},
        {'data': data.key},
        {'made': 'teacher'},
    )


def test_a_long_list_is_kept_and_not_printed(tmp_path):
    said = []
    steps = Steps(tmp_path, say=said.append)
    step = Step('resample', None, (), lambda folder: {'map': list(range(1000)), 'images': 3})
    assert len(steps.made(step)['map']) == 1000
    assert said == ['resample …', 'resample: {"map": "1000 values", "images": 3}']


def test_forgetting_a_step_forgets_what_depends_on_it(steps):
    log: list[str] = []
    data = adding('data', 0, log=log)
    teacher = adding('teacher', 0, data, log=log)
    student = adding('student', 0, teacher, log=log)
    steps.made(student)
    log.clear()
    steps.forget(teacher, in_order([student]))
    steps.made(student)
    assert log == ['teacher', 'student']


def slow(folder: Path) -> dict[str, int]:
    with (folder.parent / 'runs.txt').open('a') as file:
        file.write('run\n')
    time.sleep(0.5)
    return {}


def make_slow(root: Path) -> None:
    Steps(root).made(Step('slow', 0, (), slow))


def test_two_processes_make_a_step_once(tmp_path):
    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=make_slow, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / 'runs.txt').read_text() == 'run\n'


def test_a_fingerprint_changes_with_names_labels_and_sizes(tmp_path):
    (tmp_path / 'a.txt').write_text('0 0.5')
    (tmp_path / 'a.jpg').write_bytes(b'123')
    first = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == first
    (tmp_path / 'a.txt').write_text('0 0.6')
    second = fingerprint(tmp_path)
    (tmp_path / 'a.jpg').write_bytes(b'1234')
    third = fingerprint(tmp_path)
    (tmp_path / 'a.jpg').rename(tmp_path / 'b.jpg')
    assert len({first, second, third, fingerprint(tmp_path)}) == 4


def test_a_missing_data_set_is_named(tmp_path):
    with pytest.raises(RecipeError, match='nowhere does not exist'):
        fingerprint(tmp_path / 'nowhere')
