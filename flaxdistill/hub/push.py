"""A model repository on the Hub: checked before any work starts, written with one commit."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.hub.stablehlo import STABLEHLO
from flaxdistill.hub.tokenizer_files import TOKENIZER_FILES

EXPORT_FILES = {"README.md", "config.json", "model.safetensors", STABLEHLO, *TOKENIZER_FILES}
"""Files that an export may hold. A push deletes files of an earlier export."""

REASONS = {
    400: "the Hub does not accept the commit; see what the repository's page requires of one",
    401: "the Hub does not know the token; run hf auth login, or set HF_TOKEN to a valid one",
    403: "the token may not write there; use one that may, or a repository of your own",
    404: "the repository does not exist, or the token may not see it",
    409: "the repository changed during the push; run the command again",
    412: "the repository changed during the push; run the command again",
    413: "a file is larger than the Hub accepts",
}
"""What an HTTP status means for a push, and what to do."""


@dataclasses.dataclass(frozen=True)
class Repo:
    """A model repository on the Hub.

    The token is the one of HF_TOKEN or of ``hf auth login``. Raises UserError if ``name`` is not
    valid.
    """

    name: str
    """USER/REPO."""

    private: bool = False
    """Whether the repository must be private; a new one is created so."""

    def __post_init__(self):
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        try:
            validate_repo_id(self.name)
        except HFValidationError:
            valid = False
        else:
            valid = "/" in self.name
        if not valid:
            raise UserError(
                f"--push {self.name!r:.80} is not the name of a repository; write it as USER/REPO"
            )

    def check(self) -> None:
        """Raise UserError if the Hub rejects the token or the repository is not suitable."""
        with self._translate_errors():
            api = self._api()
            api.whoami()
            self._info(api)

    def push(self, folder: Path, message: str) -> str:
        """Commit all files of a folder at once, and return the commit's id.

        The repository is created if it does not exist. The same commit deletes files of an earlier
        export that ``folder`` does not hold; other files stay. Raises UserError on failure; the
        repository is then unchanged, or empty if it was created.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.utils import disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        with self._translate_errors():
            api = self._api()
            if self._info(api) is None:
                api.create_repo(self.name, private=self.private or None, exist_ok=True)
            info = self._info(api)
            if info is None:
                raise UserError(
                    f"{self.name} exists but the token may not read it; use one that may"
                )
            files = {file.name: file for file in sorted(folder.iterdir())}
            present = {sibling.rfilename for sibling in info.siblings or ()}
            stale = EXPORT_FILES & present - set(files)
            commit = api.create_commit(
                self.name,
                [
                    *(CommitOperationAdd(name, file) for name, file in files.items()),
                    *(CommitOperationDelete(name) for name in sorted(stale)),
                ],
                commit_message=message,
                parent_commit=info.sha,
            )
        return str(commit.oid)

    def _api(self) -> Any:
        from huggingface_hub import HfApi, constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise UserError(
                f"--push {self.name} needs the Hub but HF_HUB_OFFLINE is set; unset it to push"
            )
        token = get_token()
        if not token:
            raise UserError(f"--push {self.name} needs a token; run hf auth login, or set HF_TOKEN")
        return HfApi(token=token)

    def _info(self, api: Any) -> Any:
        """Return what the Hub knows of the repository, None if it does not exist."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = api.repo_info(self.name)
        except RepositoryNotFoundError:
            return None
        if self.private and not info.private:
            raise UserError(
                f"{self.name} exists and is public; omit --private, make it private on its page, "
                "or choose another name"
            )
        return info

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise one UserError for any failure.

        The client's own messages are not repeated: they may contain the headers of a request.
        """
        try:
            yield
            return
        except UserError:
            raise
        except Exception as error:  # from the client, its upload library or the network
            status = _status(error)
            reason = "the Hub cannot be reached, or the connection broke; run the command again"
            if status:
                reason = f"{REASONS.get(status, 'try again later')} (HTTP status {status})"
        raise UserError(f"the push to {self.name} failed: {reason}")


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status of the response that caused an error, None if there is none."""
    while error and not hasattr(error, "response"):
        error = error.__cause__
    return getattr(getattr(error, "response", None), "status_code", None)
