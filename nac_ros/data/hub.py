"""Fetches datasets from the Hugging Face Hub into its cache, each at a revision that is known."""

import os
import re
from pathlib import Path

from nac_ros.errors import DatasetError

# owner/name, at a branch, tag or commit if one is named
DATASET_ID = re.compile(r"(?P<id>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")
SNAPSHOT = re.compile(r"datasets--(?P<owner>.+?)--(?P<name>.+)")


def is_dataset_id(text: str) -> bool:
    """Whether a text has the form `owner/name` or `owner/name@revision`."""
    return DATASET_ID.fullmatch(text) is not None


def fetch(dataset: str) -> Path:
    """The folder with all files of the Hub's dataset `owner/name[@revision]`.

    What the cache holds is not fetched again. The environment of huggingface_hub is obeyed:
    HF_ENDPOINT, HF_HOME, HF_TOKEN, and HF_HUB_OFFLINE, with which only the cache is looked at.
    Raises DatasetError that says what was tried.
    """
    match = DATASET_ID.fullmatch(dataset)
    if match is None:
        raise DatasetError(f"{dataset} is no id of a dataset on the Hugging Face Hub: owner/name")
    try:
        import httpx
        import huggingface_hub
        from huggingface_hub import constants
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise DatasetError(
            f"there is no folder {dataset}, and fetching it from the Hugging Face Hub needs "
            f"{error.name}: pip install 'nac_ros[train]'"
        ) from error
    tried = f"there is no folder {dataset} here, and "
    try:
        folder = huggingface_hub.snapshot_download(
            match["id"], repo_type="dataset", revision=match["revision"]
        )
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        raise DatasetError(
            f"{tried}{constants.ENDPOINT} has no such dataset for you (it answered {status}); "
            "check the name, or set HF_TOKEN where it is private"
        ) from error
    except (LocalEntryNotFoundError, OSError, ValueError, httpx.HTTPError) as error:
        if constants.HF_HUB_OFFLINE:
            why = f"the cache {constants.HF_HUB_CACHE} has none of that id (HF_HUB_OFFLINE is set)"
        else:
            why = f"{constants.ENDPOINT} could not be reached ({_kind(error)})"
        raise DatasetError(f"{tried}{why}; check the path or the network") from error
    return Path(folder)


def origin_of(folder: Path) -> dict[str, str]:
    """{hub: owner/name, revision: commit} of a folder that `fetch` gave; {} of any other."""
    for parent in folder.absolute().parents:
        match = SNAPSHOT.fullmatch(parent.parent.name) if parent.name == "snapshots" else None
        if match:
            inside = folder.absolute().relative_to(parent)
            found = {"hub": f"{match['owner']}/{match['name']}", "revision": inside.parts[0]}
            endpoint = os.environ.get("HF_ENDPOINT")
            return {**found, "endpoint": endpoint} if endpoint else found
    return {}


def _kind(error: BaseException) -> str:
    cause = error.__cause__ or error
    return type(cause).__name__
