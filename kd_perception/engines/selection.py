"""Which artifact of a bundle is run: the user's choice or the author's order, never past the accuracy gate."""

from __future__ import annotations

from kd_perception.core.bundle import Artifact, Bundle
from kd_perception.core.errors import BundleError


def choose_artifact(bundle: Bundle, engine: str, precision: str = 'auto', max_map_drop: float = 0.02) -> Artifact:
    """The artifact to run.

    Args:
        bundle: where to choose from.
        engine: registry name of the engine.
        precision: `auto` takes the author's first artifact that passes the gate; anything else is obeyed or refused.
        max_map_drop: largest share, 0 … 1, by which the artifact's measured mAP50-95 may lie below the bundle's best. An artifact
            that nobody measured cannot be judged and passes.

    Raises:
        BundleError: no such artifact, or none that passes the gate.
    """
    if precision != 'auto':
        artifact = bundle.artifact(engine, precision)
        reason = _gate(bundle, artifact, max_map_drop)
        if reason:
            raise BundleError(reason)
        return artifact
    reasons = []
    for artifact in bundle.artifacts:
        if artifact.engine == engine:
            reason = _gate(bundle, artifact, max_map_drop)
            if not reason:
                return artifact
            reasons.append(reason)
    if not reasons:
        return bundle.artifact(engine)  # raises with the list of what there is
    raise BundleError('; '.join(reasons))


def _gate(bundle: Bundle, artifact: Artifact, max_map_drop: float) -> str:
    """Why the artifact may not run; empty when it may."""
    drop = bundle.map_drop(artifact)
    if drop is None or drop <= max_map_drop:
        return ''
    return (
        f"{bundle.name} {artifact.precision} was measured {100 * drop:.1f} % below the bundle's best mAP50-95, the limit is "
        f'{100 * max_map_drop:.1f} %: choose another precision or raise max_map_drop'
    )
