"""What a URL says by itself: where it leads, how to go deeper, how to show it without its secrets."""

from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit


def is_local(url: str) -> bool:
    """Whether a URL is a path of this machine."""
    return url.startswith("file://") or ("://" not in url and not url.startswith("pipe:"))


def local_path(url: str) -> Path:
    """The path behind a local URL."""
    return Path(unquote(urlsplit(url).path)) if url.startswith("file://") else Path(url)


def join(root: str, name: str) -> str:
    """The URL of `name` under `root`. A query, as signed URLs have one, stays behind the path."""
    if "?" in root and not is_local(root):
        parts = urlsplit(root)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
    return f"{root.rstrip('/')}/{name}" if root != "/" else f"/{name}"


def shown(url: str) -> str:
    """The URL as errors and logs may show it: without user, password, query and fragment."""
    if is_local(url) or "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL, so no telling where its secrets are
        return f"{url.partition('://')[0]}://..."
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
