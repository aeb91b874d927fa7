"""The accuracy gate: what compression cost an artifact, and whether a sibling's accuracy can be compared at all."""

from __future__ import annotations

from kd_perception.bundles.bundle import Artifact, Bundle


def refusal(artifact: Artifact, max_map_drop: float) -> str:
    """Why an artifact may not run; empty when it may.

    It may not when its mAP50-95 lies more than `max_map_drop` below that of the float network that it was made from, as a share
    of it, and the measurement can show that it is below: the whole 95 % interval is. A float network is never refused, nor is
    what nobody compared with its float network.
    """
    loss = artifact.loss
    if loss is None or loss.share <= max_map_drop or not loss.is_shown:
        return ''
    return (
        f'compression cost {100 * loss.share:.1f} % of its mAP50-95 (from {loss.float_map:.3f} by {-loss.difference:.3f}, 95 % '
        f'interval {-loss.high:.3f} to {-loss.low:.3f}), over the limit of {100 * max_map_drop:.1f} %: choose another precision '
        f'or raise max_map_drop'
    )


def incomparable(named: Bundle, bundle: Bundle, artifact: Artifact) -> str:
    """Why a sibling's accuracy says nothing beside the named bundle's; empty for the named bundle itself."""
    datasets = {a.metrics['dataset'] for a in named.artifacts if a.measured_map is not None}
    if bundle is named or (artifact.measured_map is not None and artifact.metrics['dataset'] in datasets):
        return ''
    measured = artifact.metrics.get('dataset', 'nothing')
    return f'measured on {measured}, {named.name} on {", ".join(sorted(datasets)) or "nothing"}: not comparable'
