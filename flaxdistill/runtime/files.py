"""Files and folders: atomic writes, JSON and hashes."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs, gcs_paths


@contextlib.contextmanager
def atomic_path(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path for a file or folder that becomes ``path`` when the block ends.

    The block creates the file or folder. It is uploaded to the address of ``path``, if that has
    one, and then renamed. If the block or the upload fails, it is removed. The temporary path is
    ``.NAME.HEX.tmp`` in the same folder. Raises UserError if the rename fails, as when another
    process has written the folder. ``overwrite`` is for a single writer: it replaces an existing
    file or folder, and removes temporary ones that killed processes have left.
    """
    if overwrite:
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            _remove(leftover)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        gcs.upload(temporary, path)
        if overwrite and path.is_dir():
            shutil.rmtree(path)
        try:
            temporary.rename(path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error_summary(error)}") from error
    finally:
        _remove(temporary)


@contextlib.contextmanager
def atomic_directory(directory: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``directory`` when the block ends; see ``atomic_path``.

    Raises UserError if the directory is not empty or cannot be written.
    """
    import safetensors

    directory = require_empty(directory)
    try:
        with atomic_path(directory) as temporary:
            temporary.mkdir(parents=True)
            yield temporary
            # Copied and saved files have various modes; give them those of new files by the umask.
            mode = temporary.stat().st_mode
            for path in temporary.rglob("*"):
                path.chmod(mode & (0o777 if path.is_dir() else 0o666))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"cannot write {directory}: {error_summary(error)}; nothing was left there"
        ) from None


def _remove(path: Path) -> None:
    if path.is_file():
        path.unlink(missing_ok=True)
    if not path.exists():
        return
    # After a failed write, threads of tensorstore may create the folder again for a moment.
    absences = 0
    for _ in range(20):
        shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.1)
        absences = 0 if path.exists() else absences + 1
        if absences == 3:
            break


def require_empty(directory: str | Path) -> Path:
    """Return the absolute path of a new or empty directory; raise UserError for any other."""
    directory = Path(os.path.abspath(gcs_paths.local_path(directory)))
    in_bucket = gcs.has_objects(directory)
    empty = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    if in_bucket or not empty:
        raise UserError(
            f"{directory} exists and is not an empty directory; give another or remove it"
        )
    return directory


def check_checkpoint_path(directory: Path) -> None:
    """Raise UserError for square brackets, which orbax reads as a glob pattern."""
    if set("[]") & set(str(directory.absolute())):
        raise UserError(
            f"{directory} has a square bracket in its path, where no checkpoint can be saved; use "
            "another name"
        )


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; raise UserError naming the file if it is missing or anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{file.parent} has no {file.name}; give the directory of a saved model"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON ({error}); save or download it again") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{file} holds a {type(content).__name__} instead of a JSON object; save or download "
            "it again"
        )
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON, with Unicode as it is and a newline at the end."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def hash_files(folder: Path) -> dict[str, str]:
    """Return the sha256, in hex, of every file below a folder, by its relative path."""
    hashes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        hashes[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return hashes


def error_summary(error: Exception) -> str:
    """Return the reason in an error message; tensorstore's messages have many lines."""
    if reason := re.search(r"([\w ]+) \[os_error_code", str(error)):
        return reason[1].strip()
    return getattr(error, "strerror", None) or str(error).partition("\n")[0][:200]
