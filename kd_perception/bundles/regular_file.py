"""Files of bundles lie inside their folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from kd_perception.errors import BundleError
from kd_perception.regular_file import PATH_ERRORS, shown, why


def inside(folder: Path, file: str, index: str) -> Path:
    """The path of `file`, which must lie in `folder` also after links were followed.

    Where the folder's index is itself a link to a file of that name, files may lie beside it: `colcon build --symlink-install`
    lays a folder of links.

    Raises:
        BundleError: it leaves the folder, or is no path.
    """
    relative = PurePosixPath(file)
    path = folder / relative
    leaves = relative.is_absolute() or '..' in relative.parts or '\\' in file or '\0' in file
    try:
        home = (folder / index).resolve()
        homes = [folder.resolve(), *([home.parent] if home.name == index else [])]
        leaves = leaves or not any(path.resolve().is_relative_to(home) for home in homes)
    except PATH_ERRORS as error:
        raise BundleError(f'{shown(path)} is not a file: {why(error)}') from error
    if leaves:
        raise BundleError(
            f'{shown(file)!r} lies outside its bundle {shown(folder)}; a bundle names only files in its own folder'
        )
    return path
