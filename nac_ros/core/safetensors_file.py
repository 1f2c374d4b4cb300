"""Reading safetensors files that are not trusted, in numpy; sizes and finiteness are checked."""

from pathlib import Path

import numpy as np
from safetensors import safe_open

from nac_ros.core.errors import BundleError, NacError, show_text

MAX_WEIGHTS = 2 << 30  # bytes of a safetensors file
MAX_HEADER = 8 << 20  # bytes of its header, which names each tensor


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file, all floating-point ones finite; raises BundleError."""
    read_shapes(path)
    try:
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in list(file.keys())}
    except Exception as error:  # safetensors raises types of its own
        raise BundleError(
            f"{path} cannot be read: {show_text(error)}; copy it again or export it again"
        ) from error
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleError(
                f"{path}: {show_text(name)} holds NaN or inf; train or export it again"
            )
    return arrays


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by tensor name, from the header of a safetensors file; raises BundleError."""
    reject_link(path)
    try:
        if not path.is_file():
            raise BundleError(f"{path} is missing; copy the whole folder again")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
        header = int.from_bytes(start, "little")
        if not 8 < size <= MAX_WEIGHTS or not 0 < header <= min(MAX_HEADER, size - 8):
            raise BundleError(
                f"{path} is no safetensors file: {size} bytes with a header of "
                f"{header if len(start) == 8 else 0} bytes; at most {MAX_WEIGHTS} and "
                f"{MAX_HEADER} are read, a pickle never is. Copy it again"
            )
        with safe_open(path, "np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
    except NacError:
        raise
    except Exception as error:  # safetensors raises types of its own
        raise BundleError(
            f"{path} is no complete safetensors file: {show_text(error)}; copy it again"
        ) from error


def reject_link(path: Path) -> None:
    """Raises BundleError for a symbolic link."""
    if path.is_symlink():
        raise BundleError(
            f"{path} is a symbolic link, and only plain files are read; copy the folder with "
            "`cp -rL`"
        )
