"""A model's repository on the Hub: asked about before the work begins, written by one commit."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.hub import checkpoint
from flaxdistill.hub.stablehlo import STABLEHLO

OWN = {"README.md", "config.json", "model.safetensors", STABLEHLO, *checkpoint.TOKENIZER}
"""What an export may hold: of these a repository keeps none that the newest does not have."""

ANSWERS = {
    400: "it takes no such commit; look at what the repository's page asks of one",
    404: "there is nothing by this name, or nothing that the token may see",
    401: "the Hub does not know the token; log in by hf auth login, or set HF_TOKEN to one that is valid",
    403: "the token may not write there; use one that may, or a repository of your own",
    409: "it was changed meanwhile; run the command again",
    413: "a file is larger than it takes",
    412: "it was changed meanwhile; run the command again",
}


@dataclasses.dataclass(frozen=True)
class Repo:
    """A model's repository on the Hub, ``name`` written USER/REPO; ``private`` is how it must be, or be made.

    The token is HF_TOKEN's or that of ``hf auth login``. Raises UserError for what is no such name.
    """

    name: str
    private: bool = False

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
                f"--push {self.name!r:.80} is no name of a repository; write it as USER/REPO"
            )

    def check(self) -> None:
        """Raise UserError unless the Hub knows the token, and the repository is as it must be or not there."""
        with self._talking():
            api = self._api()
            api.whoami()
            self._find(api)

    def push(self, folder: Path, told: str) -> str:
        """Commit all files of a folder at once, after making the repository where there is none; gives the commit's id.

        Files of an earlier export that this one does not have go in the same commit; others stay. Raises UserError where
        that fails, and the repository is then as it was, or empty if it was made for this.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.utils import disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        with self._talking():
            api = self._api()
            if self._find(api) is None:
                api.create_repo(self.name, private=self.private or None, exist_ok=True)
            found = self._find(api)
            if found is None:
                raise UserError(
                    f"{self.name} is there, and the token may not read it; use one that may"
                )
            files = {file.name: file for file in sorted(folder.iterdir())}
            stale = OWN & {there.rfilename for there in found.siblings or ()} - set(files)
            done = api.create_commit(
                self.name,
                [
                    *(CommitOperationAdd(name, file) for name, file in files.items()),
                    *(CommitOperationDelete(name) for name in sorted(stale)),
                ],
                commit_message=told,
                parent_commit=found.sha,
            )
        return str(done.oid)

    def _api(self) -> Any:
        from huggingface_hub import HfApi, constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise UserError(
                f"--push {self.name} needs the Hub and HF_HUB_OFFLINE is set; unset it to push"
            )
        token = get_token()
        if not token:
            raise UserError(
                f"--push {self.name} needs a token; log in by hf auth login, or set HF_TOKEN"
            )
        return HfApi(token=token)

    def _find(self, api: Any) -> Any:
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            found = api.repo_info(self.name)
        except RepositoryNotFoundError:
            return None
        if self.private and not found.private:
            raise UserError(
                f"{self.name} is there and public; leave --private out, make it private on its page, or name another"
            )
        return found

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        """Make one sentence of what goes wrong; the client's own are not repeated: they may hold what was sent."""
        try:
            yield
            return
        except UserError:
            raise
        except Exception as error:  # of the client, of what it sends files by, of the network
            status = _status(error)
            reason = "the Hub cannot be reached, or the connection broke; run the command again"
            if status:
                reason = f"{ANSWERS.get(status, 'try again later')} (it answers {status})"
        raise UserError(f"the push to {self.name} failed: {reason}")


def _status(error: BaseException | None) -> int | None:
    """Find the status of the answer that an error is made of, if there was one."""
    while error and not hasattr(error, "response"):
        error = error.__cause__
    return getattr(getattr(error, "response", None), "status_code", None)
