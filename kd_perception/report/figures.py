"""The figures of a report by the names that users give on the command line."""

from __future__ import annotations

FIGURES: dict[str, tuple[str, ...]] = {
    'map50': ('accuracy', 'map50'),
    'map': ('accuracy', 'map'),
    'precision': ('accuracy', 'at_threshold', 'precision'),
    'recall': ('accuracy', 'at_threshold', 'recall'),
    'f1': ('accuracy', 'at_threshold', 'f1'),
    'false_alarms': ('accuracy', 'at_threshold', 'false_alarms_per_image'),
    'd_ece': ('accuracy', 'calibration', 'error'),
    'sap50': ('streaming', 'sap50'),
    'sap': ('streaming', 'sap'),
    'superseded': ('streaming', 'superseded'),
    'hota': ('tracking', 'hota'),
    'idf1': ('tracking', 'idf1'),
    'mota': ('tracking', 'mota'),
    'p50_ms': ('latency', 'stages_ms', 'total', 'p50'),
    'p95_ms': ('latency', 'stages_ms', 'total', 'p95'),
    'p99_ms': ('latency', 'stages_ms', 'total', 'p99'),
    'max_ms': ('latency', 'stages_ms', 'total', 'max'),
    'fps': ('latency', 'throughput_fps'),
}
"""Names for --fail-under and --fail-over → where the figure stands in the report."""
