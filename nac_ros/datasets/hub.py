"""Downloads datasets from the Hugging Face Hub into its cache, each at a known revision."""

import os
import re
import sys
from pathlib import Path

from nac_ros.core.errors import DatasetError

# owner/name, with @branch, @tag or @commit if wanted
DATASET_ID = re.compile(r"(?P<id>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")
NO_ACCESS = (401, 403, 404)  # HTTP statuses for a dataset that is private or absent
SNAPSHOT = re.compile(r"datasets--(?P<owner>.+?)--(?P<name>.+)")


def is_dataset_id(text: str) -> bool:
    """Whether a text has the form `owner/name` or `owner/name@revision`."""
    return DATASET_ID.fullmatch(text) is not None


def fetch(dataset: str) -> Path:
    """The folder with all files of the Hub's dataset `owner/name[@revision]`.

    Cached files are not downloaded again. The environment variables of huggingface_hub apply:
    HF_ENDPOINT, HF_HOME, HF_TOKEN, and HF_HUB_OFFLINE, which uses the cache only.
    Raises DatasetError with the cause.
    """
    match = DATASET_ID.fullmatch(dataset)
    if match is None:
        raise DatasetError(
            f"{dataset} is no dataset id of the Hugging Face Hub; wanted owner/name"
        )
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise DatasetError(
            f"there is no folder {dataset}, and fetching it from the Hugging Face Hub needs "
            f"{error.name}: pip install 'nac_ros[train]'"
        ) from error
    try:
        return Path(_download(match["id"], match["revision"]))
    except Exception as error:  # its HTTP client, and so the error, differs by version
        raise DatasetError(f"there is no folder {dataset} here, and {_reason(error)}") from error


def _download(name: str, revision: str | None) -> str:
    """The folder with the dataset's files; the cached copy if the Hub does not answer.

    `snapshot_download` has no time-out for its first request, so `dataset_info` comes first.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        HfApi().dataset_info(name, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # as in `fetch`
        try:
            folder = snapshot_download(
                name, repo_type="dataset", revision=revision, local_files_only=True
            )
        except LocalEntryNotFoundError:
            raise error from None
        if not constants.HF_HUB_OFFLINE:
            print(f"nac: {_reason(error)}; the copy in the cache is used", file=sys.stderr)
        return folder
    return snapshot_download(name, repo_type="dataset", revision=revision)


def _reason(error: Exception) -> str:
    """The cause of a failed download and the remedy, as the end of a sentence."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    hub, status = constants.ENDPOINT, getattr(getattr(error, "response", None), "status_code", 0)
    if constants.HF_HUB_OFFLINE:
        return (
            f"the cache {constants.HF_HUB_CACHE} does not contain it (HF_HUB_OFFLINE is set); "
            "check the path or the network"
        )
    if isinstance(error, HFValidationError):
        return "no dataset on the Hugging Face Hub can have that name; check the path"
    if status in NO_ACCESS:
        return (
            f"{hub} has no such dataset or denies access ({status}); check the name, or "
            "set HF_TOKEN if it is private"
        )
    if status:
        return f"{hub} answered {status}; try again later, or check HF_ENDPOINT"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be written ({error.strerror}); free space or set HF_HOME"
    cause = type(error.__cause__ or error).__name__
    return f"{hub} could not be reached ({cause}); check the path or the network"


def hub_revision(folder: Path) -> dict[str, str]:
    """{hub: owner/name, revision: commit} of a folder from `fetch`; {} for any other folder."""
    for parent in folder.absolute().parents:
        match = SNAPSHOT.fullmatch(parent.parent.name) if parent.name == "snapshots" else None
        if match:
            inside = folder.absolute().relative_to(parent)
            found = {"hub": f"{match['owner']}/{match['name']}", "revision": inside.parts[0]}
            endpoint = os.environ.get("HF_ENDPOINT")
            return {**found, "endpoint": endpoint} if endpoint else found
    return {}
