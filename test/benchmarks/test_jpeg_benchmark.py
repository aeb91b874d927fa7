"""The benchmark of JPEG decoding: a row for every size and quality, of both decoders."""

import re

from benchmarks import jpeg


def test_both_decoders_side_by_side(monkeypatch, capsys):
    monkeypatch.setattr(jpeg, 'ROUNDS', 1)
    monkeypatch.setattr(jpeg, 'SIZES', ((320, 240),))
    jpeg.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [re.match(r'\| 320 × 240 \| (\d+) \|', row)[1] for row in rows] == ['75', '95']
