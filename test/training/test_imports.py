"""No two modules of training import each other, not even within functions."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def modules():
    """The module's name → its file."""
    files = (file for file in (ROOT / 'training').rglob('*.py') if '__pycache__' not in file.parts)
    return {'.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): file for file in files}


def imported(file, known):
    """What a module imports of `known`, but for type checkers."""
    tree = ast.parse(file.read_text())
    for_types = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == 'TYPE_CHECKING'
        for part in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


def reachable(start, graph):
    found, left = set(), list(graph[start])
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left.extend(graph[name])
    return found


def test_no_circle():
    files = modules()
    graph = {name: imported(file, files.keys()) - {name} for name, file in files.items()}
    reach = {name: reachable(name, graph) for name in graph}
    circles = {
        frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]
    }
    assert not circles
