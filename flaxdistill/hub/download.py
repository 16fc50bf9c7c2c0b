"""Where a model's files come from: a folder, a bucket, or the Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What is fetched of a Hub model; folders in it are not."""

CONVERTED = ("params/*", "params/*/*", "params/*/*/*")
"""What is fetched beside them of a converted model in a bucket."""


def resolve(path_or_id: str, files: tuple[str, ...] = FILES) -> Path:
    """Find a model's directory: one here or, with ``files`` fetched, a gs:// address or a Hub id ``user/repo[@revision]``.

    Raises UserError where there is neither.
    """
    below = CONVERTED if files is FILES else ()
    local = gcs.local(path_or_id, gcs.named(*(f"/{name}" for name in files), *below))
    if local.is_dir():
        return local
    if local.exists():
        raise UserError(f"{path_or_id} is a file; give the directory that holds it")
    found = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", path_or_id)
    if not found:
        raise UserError(
            f"there is no directory {path_or_id}; give one that exists or the id of a Hub model, like "
            "user/repo or user/repo@revision"
        )
    return _fetch(found[1], found[2], files)


def _fetch(repo: str, revision: str | None, files: tuple[str, ...]) -> Path:
    from huggingface_hub import errors, snapshot_download

    name = f"{repo}@{revision}" if revision else repo
    # The client's own messages are not repeated: they may hold what a request was sent with.
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
        reason = "it is gated; ask for access on its page and set HF_TOKEN"
    except errors.RevisionNotFoundError:
        reason = "it has no such revision; check the part after @"
    except errors.HfHubHTTPError as error:
        reason = _answer(error)
    except errors.HFValidationError:
        reason = "that is no valid id; it is written user/repo or user/repo@revision"
    except (OSError, ValueError, errors.EntryNotFoundError, errors.HTTPError) as error:
        # The client wraps an answer it has no name for in an error of its own.
        answered = isinstance(error.__cause__, errors.HfHubHTTPError)
        away = "the Hub cannot be reached and there is no copy in its cache; give a local directory"
        reason = _answer(error.__cause__) if answered else away
    raise UserError(
        f"{name} is no directory here, and as a Hub model it cannot be fetched: {reason}"
    )


def _answer(error: Any) -> str:
    status = getattr(error.response, "status_code", "with an error")
    private = status in {401, 403, 404}
    way = (
        "check the id, and HF_TOKEN if it is private"
        if private
        else "try again, or give a local directory"
    )
    return f"the Hub answers {status}; {way}"
