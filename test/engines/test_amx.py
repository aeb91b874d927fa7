"""OpenVINO with AMX or without: decided once in a process, by the artifact, and never against the user's variable."""

import os
import subprocess
import sys

import pytest

from kd_perception.engines import amx


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    monkeypatch.setattr(amx, '_loaded_with', [])
    monkeypatch.setattr(amx, 'has_amx', lambda: True)
    monkeypatch.delenv(amx.VARIABLE, raising=False)


@pytest.mark.parametrize(('flags', 'expected'), [('avx512_vnni amx_bf16 amx_tile amx_int8', True), ('avx2', False)])
def test_the_processor_tells(tmp_path, monkeypatch, flags, expected):
    monkeypatch.undo()
    (tmp_path / 'cpuinfo').write_text(f'flags\t\t: fpu {flags}\n')
    assert amx.has_amx(tmp_path) is expected
    assert not amx.has_amx(tmp_path / 'nowhere')


@pytest.mark.parametrize(('allowed', 'value'), [(True, None), (False, amx.WITHOUT)])
def test_the_library_is_loaded_as_the_artifact_says_and_children_choose_for_themselves(allowed, value):
    with amx.loading(allowed):
        assert os.environ.get(amx.VARIABLE) == value
    assert amx.VARIABLE not in os.environ
    assert amx.doubts(allowed) == ()


def test_the_first_choice_stays_and_a_later_one_hears_of_it():
    with amx.loading(True):
        pass
    with amx.loading(False):
        assert amx.VARIABLE not in os.environ
    (warning,) = amx.doubts(False)
    assert 'loaded with AMX' in warning
    assert 'faster without' in warning


def test_the_user_goes_before(monkeypatch):
    monkeypatch.setenv(amx.VARIABLE, 'AVX2')
    with amx.loading(False):
        assert os.environ[amx.VARIABLE] == 'AVX2'
    assert os.environ[amx.VARIABLE] == 'AVX2'
    assert amx.doubts(False) == ()


LOADS = """
import openvino
from kd_perception.engines import amx
with amx.loading(False):
    core = openvino.Core()
    core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
import numpy as np
import openvino.opset13 as ov
image = ov.parameter([1, 64, 32, 32], np.float32)
levels = [np.float32(value) for value in (-1, 1, -1, 1)]
weights = ov.fake_quantize(np.ones((64, 64, 3, 3), np.float32), *levels, 255)
product = ov.convolution(ov.fake_quantize(image, *levels, 256), weights, [1, 1], [1, 1], [1, 1], [1, 1])
compiled = core.compile_model(openvino.Model([product], [image]), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
facts = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
print([fact['primitiveType'].astype(str) for fact in facts if 'primitiveType' in fact])
"""


def test_no_kernel_of_the_library_uses_amx_then():
    pytest.importorskip('openvino')
    done = subprocess.run([sys.executable, '-c', LOADS], capture_output=True, text=True, check=True)
    assert '_I8' in done.stdout or '_i8' in done.stdout.lower()
    assert 'amx' not in done.stdout
