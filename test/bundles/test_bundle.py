"""A bundle is checked whole before anything of it is used."""

from __future__ import annotations

import pytest
import yaml
from networks import artifact_entry, bundle_document, make_bundle, metrics

from kd_perception.bundles.bundle import BUNDLE_FILE, find_bundle, load_bundle, write_bundle
from kd_perception.detection.thresholds import Thresholds
from kd_perception.errors import BundleError


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / 'bright_cells')


def rewrite(bundle, **changes):
    """Change top-level keys of a bundle's yaml behind its back."""
    path = bundle.folder / BUNDLE_FILE
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def test_what_was_written_is_read_back(bundle):
    again = load_bundle(bundle.folder)
    assert again == bundle
    assert again.classes == ('bright', 'blue')
    assert again.input.shape == (1, 64, 64, 3)
    assert again.read(again.artifact('onnxruntime')).startswith(b'\x08')


def test_an_artifact_may_have_an_operating_point_of_its_own(bundle):
    entry = artifact_entry(bundle.folder, 'bright_cells.onnx', 'int8')
    rule = {'kind': 'recall', 'value': 0.9}
    rewrite(
        bundle,
        artifacts=[
            artifact_entry(bundle.folder, 'bright_cells.onnx'),
            {**entry, 'thresholds': {'score': 0.3, 'rule': rule}},
            {**entry, 'precision': 'w4', 'thresholds': {'score': 0.2, 'iou': 0.7, 'class_scores': {'blue': 0.1}}},
        ],
    )
    again = load_bundle(bundle.folder)
    points = [again.operated_as(artifact).thresholds for artifact in again.artifacts]
    assert points == [
        again.thresholds,
        Thresholds(0.3, again.thresholds.iou),
        Thresholds(0.2, 0.7, class_scores={'blue': 0.1}),
    ]
    assert again.artifacts[1].thresholds['rule'] == rule


@pytest.mark.parametrize('thresholds', [{'score': 1.5}, {'iou': 0.5}, {'score': 0.5, 'recall': 0.9}])
def test_a_wrong_operating_point_of_an_artifact_is_named(bundle, thresholds):
    rewrite(bundle, artifacts=[{**artifact_entry(bundle.folder, 'bright_cells.onnx'), 'thresholds': thresholds}])
    with pytest.raises(BundleError, match=r'artifacts\[0\].thresholds'):
        load_bundle(bundle.folder)


def test_a_class_may_cover_finer_names(tmp_path):
    covering = make_bundle(tmp_path / 'b', covers={'blue': ['navy', 'sky']})
    assert covering.class_map == {'navy': 'blue', 'sky': 'blue'}
    assert load_bundle(covering.folder) == covering


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'schema_version': 2}, 'schema_version'),
        ({'classes': []}, 'classes'),
        ({'classes': ['car', 'car']}, 'classes'),
        ({'surprise': 1}, 'surprise'),
        ({'thresholds': {'score': 1.5, 'iou': 0.5}}, 'thresholds.score'),
        ({'thresholds': {'score': float('nan'), 'iou': 0.5}}, 'finite number'),
        ({'thresholds': {'score': 0.5, 'iou': 0.5, 'suppression': 'none'}}, 'thresholds.suppression'),
        ({'thresholds': {'score': 0.5, 'iou': 0.5, 'class_scores': {'blue': 2}}}, 'thresholds.class_scores.blue'),
        ({'covers': {'green': ['lime']}}, 'covers.green: .*no such class'),
        ({'covers': {'blue': ['navy', 'Bright']}}, 'covers.blue: .*Bright is a class'),
        ({'covers': {'blue': ['navy'], 'bright': ['navy']}}, 'covers.bright: .*navy is a class, or covered twice'),
        ({'covers': {'blue': 'navy'}}, 'covers.blue'),
        (
            {'thresholds': {'score': 0.5, 'iou': 0.5, 'class_scores': {'green': 0.3}}},
            'class_scores.green: .*no such class',
        ),
        ({'output': {'layout': 'magic'}}, 'output.layout'),
        ({'input': {**bundle_document()['input'], 'width': 0}}, 'input.width'),
        ({'input': {**bundle_document()['input'], 'dtype': 'float32', 'std': [1, 0, 1]}}, 'input.std'),
    ],
)
def test_a_wrong_field_is_named(bundle, changes, says):
    rewrite(bundle, **changes)
    with pytest.raises(BundleError, match=says):
        load_bundle(bundle.folder)


@pytest.mark.parametrize('file', ['../other.onnx', '/etc/hostname', 'a/../../b.onnx', 'c:\\model.onnx'])
def test_a_path_leaving_the_folder_is_refused(bundle, file):
    rewrite(bundle, artifacts=[{'engine': 'onnxruntime', 'precision': 'fp32', 'file': file, 'sha256': '0' * 64}])
    with pytest.raises(BundleError, match='outside its bundle'):
        load_bundle(bundle.folder)


def test_a_link_leaving_the_folder_is_refused(bundle, tmp_path):
    (tmp_path / 'elsewhere.onnx').write_bytes(b'x')
    (bundle.folder / 'link.onnx').symlink_to(tmp_path / 'elsewhere.onnx')
    rewrite(bundle, artifacts=[artifact_entry(bundle.folder, 'link.onnx')])
    with pytest.raises(BundleError, match='outside its bundle'):
        load_bundle(bundle.folder)


def test_a_bundle_of_links_is_the_bundle_that_they_lead_to(bundle, tmp_path):
    """As `colcon build --symlink-install` lays it."""
    linked = tmp_path / 'share' / bundle.folder.name
    linked.mkdir(parents=True)
    for path in bundle.folder.iterdir():
        (linked / path.name).symlink_to(path)
    loaded = load_bundle(linked)
    assert loaded.folder == linked
    assert loaded.read(loaded.artifacts[0]) == bundle.read(bundle.artifacts[0])


@pytest.mark.parametrize(
    ('damage', 'says'),
    [
        (lambda content: content[:-10], 'truncated or altered'),
        (lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:], 'truncated or altered'),
    ],
    ids=['truncated', 'one bit altered'],
)
def test_a_damaged_artifact_is_refused(bundle, damage, says):
    artifact = bundle.artifact('onnxruntime')
    path = bundle.folder / artifact.file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleError, match=says):
        bundle.read(artifact)


def test_a_missing_artifact_is_named(bundle):
    (bundle.folder / 'bright_cells.onnx').unlink()
    with pytest.raises(BundleError, match='bright_cells.onnx'):
        bundle.read(bundle.artifact('onnxruntime'))


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('', 'not a mapping'),
        ('- 1\n', 'not a mapping'),
        ('a: [', 'cannot be read'),
        ('a: !!python/object/apply:os.system [ls]', 'cannot be read'),
        ('a: &x [1]\nb: [*x, *x]\n', 'aliases are not allowed'),
        ('a: ' + '[' * 5000, 'cannot be read'),
        ('a: "' + 'x' * (1 << 20) + '"', 'larger than'),
    ],
    ids=['empty', 'list', 'broken', 'object', 'aliases', 'deep', 'long'],
)
def test_hostile_yaml_is_an_error_like_any_other(tmp_path, text, says):
    (tmp_path / BUNDLE_FILE).write_text(text)
    with pytest.raises(BundleError, match=says):
        load_bundle(tmp_path)


def test_no_folder_and_no_yaml_are_told_apart(tmp_path):
    with pytest.raises(BundleError, match='does not exist'):
        load_bundle(tmp_path / 'nowhere')
    with pytest.raises(BundleError, match='holds no bundle.yaml'):
        load_bundle(tmp_path)


def test_a_bundle_is_found_by_name_below_an_ament_prefix(tmp_path, monkeypatch):
    shelf = tmp_path / 'prefix' / 'share' / 'kd_perception' / 'models'
    bundle = make_bundle(shelf / 'bright_cells')
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path / 'prefix'))
    assert find_bundle('bright_cells') == bundle.folder
    assert find_bundle(str(bundle.folder)) == bundle.folder
    with pytest.raises(BundleError, match='bright_cells'):
        find_bundle('dark_cells')


def test_writing_checks_first_and_leaves_nothing_half_done(bundle):
    before = (bundle.folder / BUNDLE_FILE).read_text()
    entry = {'engine': 'onnxruntime', 'precision': 'fp32', 'file': 'bright_cells.onnx', 'sha256': '0' * 64}
    with pytest.raises(BundleError, match='is not written'):
        write_bundle(bundle.folder, bundle_document(artifacts=[entry]))
    assert (bundle.folder / BUNDLE_FILE).read_text() == before


def test_an_artifact_that_is_not_there_lists_what_is(bundle):
    with pytest.raises(BundleError, match='it has onnxruntime/fp32'):
        bundle.artifact('tensorrt', 'int8')


@pytest.mark.parametrize(
    ('difference', 'interval', 'share', 'shown'),
    [
        (-0.05, [-0.08, -0.02], 0.1, True),
        (-0.05, [-0.12, 0.01], 0.1, False),
        (0.02, [0.01, 0.03], -0.04, False),
    ],
)
def test_what_compression_cost_is_kept(tmp_path, difference, interval, share, shown):
    make_bundle(tmp_path)
    stated = {'sha256': '0' * 64, 'map': 0.5, 'difference': difference, 'interval': interval}
    measured = metrics(0.5 + difference) | {'compared_with_float': stated}
    entry = artifact_entry(tmp_path, 'bright_cells.onnx', 'int8', metrics=measured)
    loss = write_bundle(tmp_path, bundle_document(artifacts=[entry])).artifacts[0].loss
    assert (loss.share, loss.is_shown) == (pytest.approx(share), shown)
