"""Fetches files of a Hugging Face repository at one commit."""

import dataclasses
import os
import re

from clap_jax.public_weights import download

_TIMEOUT_SEC = 30.0
_TRANSPORTS = ("httpx", "httpcore", "requests", "urllib3")
NEWEST = "main"


@dataclasses.dataclass(frozen=True)
class HubFile:
  """A file of a repository, as the Hub describes it.

  Attributes:
    address: address of the file at the commit.
    sha256: hash of a file in large-file storage; "" for other files.
    blob: Git hash of any other file; "" in large-file storage.
  """

  address: str
  sha256: str
  blob: str


@dataclasses.dataclass(frozen=True)
class Repository:
  """A repository at one commit."""

  commit: str
  files: dict[str, HubFile]


def describe(repository: str, revision: str) -> Repository:
  """Lists the files of a repository on the Hub.

  No token is sent: all repositories of the table are public.

  Args:
    repository: repository as "owner/name".
    revision: commit, branch or tag; "" for the newest commit.

  Raises:
    RefusedError: if the repository or the revision does not exist.
    DownloadError: if the Hub does not respond.
  """
  import huggingface_hub  # noqa: PLC0415  (half a second to import)
  from huggingface_hub import errors  # noqa: PLC0415

  endpoint = os.environ.get("HF_ENDPOINT") or huggingface_hub.constants.ENDPOINT
  download.check_address(endpoint)
  api = huggingface_hub.HfApi(endpoint=endpoint, token=False)
  try:
    info = api.model_info(
      repository,
      revision=revision or NEWEST,
      files_metadata=True,
      timeout=_TIMEOUT_SEC,
    )
  except (
    errors.RepositoryNotFoundError,
    errors.RevisionNotFoundError,
    errors.HFValidationError,
  ) as error:
    raise download.RefusedError(
      f"{endpoint} has no {repository} at revision {revision or NEWEST}: "
      f"{str(error).splitlines()[0]:.200}"
    ) from error
  except (errors.OfflineModeIsEnabled, OSError, RuntimeError) as error:
    raise _unreachable(endpoint, repository, error) from error
  except Exception as error:
    # The library's transport depends on its version and has its own errors.
    if not type(error).__module__.startswith(_TRANSPORTS):
      raise
    raise _unreachable(endpoint, repository, error) from error
  commit = info.sha or ""
  if not re.fullmatch(r"[0-9a-f]{40}", commit):
    raise download.RefusedError(
      f"{endpoint} returned no commit of {repository} for {revision or NEWEST}."
    )
  return Repository(
    commit,
    {
      each.rfilename: HubFile(
        huggingface_hub.hf_hub_url(
          repository, each.rfilename, revision=commit, endpoint=endpoint
        ),
        sha256=each.lfs.sha256 if each.lfs else "",
        blob="" if each.lfs else each.blob_id or "",
      )
      for each in info.siblings or ()
    },
  )


def _unreachable(endpoint, repository, error) -> download.DownloadError:
  return download.DownloadError(
    f"{endpoint} does not respond for {repository}: {str(error)[:200]}. Try "
    "again later, or pass a mirror or a folder with --from."
  )
