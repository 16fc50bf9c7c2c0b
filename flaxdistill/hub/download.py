"""Find the files of a model: in a local directory, in a bucket, or on the Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Patterns of the files that are downloaded for a model; subfolders are not."""

CONVERTED = ("params/*", "params/*/*", "params/*/*/*")
"""Further patterns for a converted model in a bucket."""


def resolve(path_or_id: str, files: tuple[str, ...] = FILES) -> Path:
    """Return the local directory of a model.

    ``path_or_id`` is a local directory, a gs:// path or a Hub id ``user/repo[@revision]``. From the
    last two the ``files`` are downloaded. Raises UserError if there is no such model.
    """
    converted = CONVERTED if files is FILES else ()
    patterns = (*(f"/{name}" for name in files), *converted)
    local = gcs.local_copy(path_or_id, gcs.name_filter(*patterns))
    if local.is_dir():
        return local
    if local.exists():
        raise UserError(f"{path_or_id} is a file; give the directory that holds it")
    hub_id = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", path_or_id)
    if not hub_id:
        raise UserError(
            f"there is no directory {path_or_id}; give one that exists or the id of a Hub model, "
            "like user/repo or user/repo@revision"
        )
    return _download(hub_id[1], hub_id[2], files)


def _download(repo: str, revision: str | None, files: tuple[str, ...]) -> Path:
    from huggingface_hub import errors, snapshot_download

    # The client's own messages are not repeated: they may contain the headers of a request.
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(files),
                ignore_patterns=["*/*", "model.json"],
            )
        )
    except errors.GatedRepoError:
        reason = "it is gated; request access on its page and set HF_TOKEN"
    except errors.RevisionNotFoundError:
        reason = "it has no such revision; check the part after @"
    except errors.HfHubHTTPError as error:
        reason = _describe_response(error)
    except errors.HFValidationError:
        reason = "the id is not valid; write user/repo or user/repo@revision"
    except (OSError, ValueError, errors.EntryNotFoundError, errors.HTTPError) as error:
        # The client wraps a response that it does not recognize in one of these errors.
        reason = "the Hub cannot be reached and its cache has no copy; give a local directory"
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            reason = _describe_response(error.__cause__)
    name = f"{repo}@{revision}" if revision else repo
    raise UserError(
        f"{name} is no local directory, and cannot be downloaded from the Hub: {reason}"
    )


def _describe_response(error: Any) -> str:
    status = getattr(error.response, "status_code", "with an error")
    if status in {401, 403, 404}:
        return f"the Hub answers {status}; check the id, and HF_TOKEN if it is private"
    return f"the Hub answers {status}; try again, or give a local directory"
