"""What `bundle.yaml` says of an imported network, its artifact left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kd_perception.bundles.foreign.family import Proposal
from kd_perception.bundles.foreign.metadata import Stated
from kd_perception.bundles.foreign.options import ImportOptions
from kd_perception.bundles.onnx_outline import Outline
from kd_perception.detection.network import InputSpec

NAME = '[A-Za-z0-9][A-Za-z0-9_.-]{0,63}'
"""What a bundle can be called, as the schema has it."""
_MAX_TEXT = 1000
_MAX_ENTRIES = 32
_ALWAYS = ('width', 'height', 'color', 'dtype', 'layout', 'resize')


def bundle_document(
    name: str,
    options: ImportOptions,
    *,
    outline: Outline,
    stated: Stated,
    image: InputSpec,
    proposal: Proposal,
    classes: Sequence[str],
    imported_from: str,
    changed: bool,
) -> dict[str, Any]:
    """The document.

    Args:
        name: of the bundle.
        options: what the user said.
        outline, stated: what the file says.
        image: the input section.
        proposal: how the outputs are read.
        classes: names.
        imported_from: name of the user's file.
        changed: decoding was added to it.
    """
    metadata = {_line(key): _line(value) for key, value in sorted(outline.metadata.items())[:_MAX_ENTRIES]}
    return {
        'schema_version': 1,
        'name': name,
        'description': _line(stated.description) or f'imported from {_line(imported_from)}',
        'license': options.license or _line(stated.license) or 'not stated by the file',
        'classes': list(classes),
        'input': _input_section(image),
        'output': dict(proposal.output),
        'thresholds': options.thresholds,
        'artifacts': [],
        'provenance': {
            'imported_from': _line(imported_from),
            'read_as': proposal.what,
            **({'changed': 'what decodes the outputs was added to the graph'} if changed else {}),
            **metadata,
        },
    }


def _line(text: str) -> str:
    """A text of unknown origin as one printable line of bounded length."""
    return ''.join(letter if letter.isprintable() else ' ' for letter in text)[:_MAX_TEXT].strip()


def _input_section(spec: InputSpec) -> dict[str, Any]:
    """What differs from the schema's defaults, and what it always asks for."""
    usual = asdict(InputSpec(spec.width, spec.height))
    stated = {key: value for key, value in asdict(spec).items() if key in _ALWAYS or value != usual[key]}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in stated.items()}
