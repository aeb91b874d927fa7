"""Boxes in CSV files: photographs and frames of videos."""

import cv2
import numpy as np
import pytest
from data_sets import converted, write_picture, write_text

from training.data.boxes_csv import read
from training.data.dataset import read_classes
from training.data.sources import SourceSettings, prepare
from training.errors import DataError

HEAD = 'filename,width,height,class,xmin,ymin,xmax,ymax\n'


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / 'csv'
    for split in ('train', 'valid'):
        rows = f'{split}.jpg,80,60,Car,10,20,30,40\n{split}.jpg,80,60,Bus,0,0,5,5\n'
        write_text(folder / split / '_annotations.csv', HEAD + rows)
        write_picture(folder / split / f'{split}.jpg', ground=90 if split == 'train' else 80)
    return folder


def test_photographs_arrive_with_classes_in_alphabetical_order(photographs, tmp_path):
    (item,) = converted(photographs, tmp_path / 'ours', 'val', format='csv')
    assert read_classes(tmp_path / 'ours') == ('Bus', 'Car')
    np.testing.assert_allclose(item.objects.boxes, [[10, 20, 30, 40], [0, 0, 5, 5]], atol=1e-3)
    assert item.objects.class_ids.tolist() == [1, 0]


def test_copies_of_one_photograph_are_one_session(tmp_path):
    rows = ''.join(f'{name}_jpg.rf.{copy}.jpg,80,60,Car,1,2,3,4\n' for name in 'ab' for copy in ('0f', '1e'))
    write_text(tmp_path / '_annotations.csv', HEAD + rows)
    assert [picture.session for picture in read(tmp_path).pictures] == ['a_jpg', 'a_jpg', 'b_jpg', 'b_jpg']


@pytest.mark.parametrize('row', ['a.jpg,80,60,Car,x,2,3,4', 'a.jpg,80,60,Car,1,2', '../a.jpg,80,60,Car,1,2,3,4'])
def test_broken_rows_are_reported_and_the_others_read(photographs, row):
    with (photographs / 'train/_annotations.csv').open('a') as file:
        file.write(row + '\n')
    found = read(photographs)
    assert len(found.problems) == 1
    assert [len(picture.objects) for picture in found.pictures] == [2, 2]


def test_other_columns_are_refused(photographs):
    write_text(photographs / 'train/_annotations.csv', 'filename,class\na.jpg,Car\n')
    with pytest.raises(DataError, match='lacks the columns width, height, xmin'):
        read(photographs)


@pytest.fixture
def clips(tmp_path):
    """Two clips of six frames, each as grey as its number says; no box in frame 2."""
    folder = tmp_path / 'clips'
    (folder / 'videos').mkdir(parents=True)
    for clip in ('A', 'B'):
        writer = cv2.VideoWriter(str(folder / f'videos/{clip}.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 30, (64, 48))
        for frame in range(6):
            writer.write(np.full((48, 64, 3), 40 * frame, np.uint8))
        writer.release()
        rows = ''.join(f'{frame},DRONE,{frame}.00,2.00,10.00,8.00\n' for frame in (0, 1, 3, 4, 5))
        write_text(folder / f'gt/{clip}.csv', 'frame,label,x,y,w,h\n' + rows)
    return folder


def test_frames_of_videos_arrive_with_their_boxes(clips, tmp_path):
    items = converted(clips, tmp_path / 'ours', format='csv', val_share=0.5)
    assert [item.name[1:] for item in items] == [f'_{frame:06d}' for frame in (0, 1, 3, 4, 5)]
    for item in items:
        frame = int(item.name[-1])
        assert item.image.mean() == pytest.approx(40 * frame, abs=6)
        np.testing.assert_allclose(item.objects.boxes, [[frame, 2, frame + 10, 10]], atol=1e-3)


def test_every_second_frame_and_no_clip_in_both_splits(clips, tmp_path):
    counts = prepare(SourceSettings('csv', 'clips', every=2, val_share=0.5), tmp_path, tmp_path / 'ours')
    assert counts == {'train': 2, 'val': 2, 'left_out': 0}
    sessions = [
        {item.name[0] for item in converted(clips, tmp_path / 'ours', split, format='csv', every=2, val_share=0.5)}
        for split in ('train', 'val')
    ]
    assert sorted(sessions, key=str) == [{'A'}, {'B'}]


def test_a_video_that_ends_early_or_is_missing_is_refused(clips, tmp_path):
    (clips / 'videos/B.avi').unlink()
    with (clips / 'gt/A.csv').open('a') as file:
        file.write('9,DRONE,1,2,3,4\n')
    with pytest.raises(DataError, match=r'6 pictures or boxes are broken(.|\n)*ends before frame 9(.|\n)*is missing'):
        converted(clips, tmp_path / 'ours', format='csv', val_share=0.5)


def test_the_vehicles_convert(shared_data, tmp_path):
    counts = prepare(SourceSettings('csv', 'vehicles_240'), shared_data, tmp_path)
    assert sum(counts[split] for split in ('train', 'val', 'test')) == 625
    assert read_classes(tmp_path) == ('Ambulance', 'Bus', 'Car', 'Motorcycle', 'Truck')
