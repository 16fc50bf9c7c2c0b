"""Files of a model: JSON read with one sentence, directories written whole or not at all."""

from __future__ import annotations

import contextlib
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
def whole(directory: str | Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``directory`` when the block ends, and is gone if it fails.

    Raises UserError if the directory holds anything already, or cannot be written.
    """
    import safetensors

    directory = refuse_full(directory)
    new = directory.parent / f".{directory.name}.{secrets.token_hex(4)}.tmp"
    try:
        new.mkdir(parents=True)
        yield new
        for file in new.rglob("*"):
            # Copied and saved files have modes of their own making; a new one has the umask's.
            file.chmod(new.stat().st_mode & (0o777 if file.is_dir() else 0o666))
        gcs.send(new, directory)
        new.rename(directory)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"cannot write {directory}: {brief(error)}; nothing was left there"
        ) from None
    finally:
        _remove(new)


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    # After a write that failed, threads of tensorstore may go on for a moment and make the folder anew.
    quiet = 0
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)
        quiet = 0 if folder.exists() else quiet + 1
        if quiet == 3:
            break


def refuse_full(directory: str | Path) -> Path:
    """Give the absolute path of a directory to be written; raises UserError if it holds anything already."""
    directory = Path(os.path.abspath(gcs_paths.here(directory)))
    full = gcs.occupied(directory)
    if full or (directory.exists() and not (directory.is_dir() and not any(directory.iterdir()))):
        raise UserError(
            f"{directory} exists and is not an empty directory; give another or remove it"
        )
    return directory


def refuse_brackets(directory: Path) -> None:
    """Raise UserError for a path that orbax would take for a pattern, and then not find what it wrote."""
    if set("[]") & set(str(directory.absolute())):
        raise UserError(
            f"{directory} has a square bracket in its path, where no checkpoint can be kept; use another name"
        )


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; raises UserError naming the file."""
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{file.parent} has no {file.name}; give the directory of a saved model"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no valid JSON ({error}); save or fetch it again") from None
    if not isinstance(given, dict):
        raise UserError(
            f"{file} holds a {type(given).__name__} where a JSON object belongs; save or fetch it again"
        )
    return given


def write_json(file: Path, given: Mapping[str, Any]) -> None:
    """Write JSON as people and diffs like it."""
    file.write_text(json.dumps(given, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def hashes(folder: Path) -> dict[str, str]:
    """Hash every file below a folder: its path there to its sha256, hex."""
    found = {}
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        with file.open("rb") as opened:
            found[file.relative_to(folder).as_posix()] = hashlib.file_digest(
                opened, "sha256"
            ).hexdigest()
    return found


def brief(error: Exception) -> str:
    """Give the beginning of what a library said; tensorstore's messages run over many lines."""
    if found := re.search(r"([\w ]+) \[os_error_code", str(error)):
        return found[1].strip()
    return getattr(error, "strerror", None) or str(error).partition("\n")[0][:200]
