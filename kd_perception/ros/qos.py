"""QoS profiles of the node's topics, and incompatibilities in words."""

from __future__ import annotations

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)

IMAGE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Images and per-frame measurements: the newest counts, nothing waits for a slow reader."""

DETECTIONS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)

LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""What late joiners must still get: label and vision info."""

_CURES = {
    QoSPolicyKind.RELIABILITY: 'the writer is best effort, the reader wants reliable: set the reader to best effort '
    '(for our subscription: qos_overrides.<topic>.subscription.reliability)',
    QoSPolicyKind.DURABILITY: 'the writer is volatile, the reader wants transient local: set the reader to volatile '
    '(for our subscription: qos_overrides.<topic>.subscription.durability)',
    QoSPolicyKind.DEADLINE: 'the writer promises a longer deadline than the reader wants',
    QoSPolicyKind.LIVELINESS: 'the writer promises a weaker liveliness than the reader wants',
}


def mismatch(publisher: QoSProfile, subscription: QoSProfile) -> QoSPolicyKind:
    """The policy by which two incompatible ends do not match; the commonest first."""
    if (
        publisher.reliability == ReliabilityPolicy.BEST_EFFORT
        and subscription.reliability == ReliabilityPolicy.RELIABLE
    ):
        return QoSPolicyKind.RELIABILITY
    if (
        publisher.durability == DurabilityPolicy.VOLATILE
        and subscription.durability == DurabilityPolicy.TRANSIENT_LOCAL
    ):
        return QoSPolicyKind.DURABILITY
    if publisher.deadline.nanoseconds > subscription.deadline.nanoseconds > 0:
        return QoSPolicyKind.DEADLINE
    return QoSPolicyKind.LIVELINESS


def incompatibility(topic: str, kind: QoSPolicyKind, ours: str) -> str:
    """What an incompatible QoS means and how it is cured.

    Args:
        topic: resolved topic name.
        kind: the policy that does not fit.
        ours: which end is this node's, `subscription` or `publisher`.
    """
    other = 'publisher' if ours == 'subscription' else 'subscription'
    cure = _CURES.get(kind, 'compare both ends with: ros2 topic info --verbose ' + topic)
    return (
        f'a {other} on {topic} has a QoS incompatible with our {ours} ({qos_policy_name_from_kind(kind)}), nothing flows '
        f'between the two: {cure}'
    )
