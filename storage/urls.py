"""What a URL says by itself: where it leads, how to go deeper, how to show it without its
secrets.
"""

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

_CREDENTIAL = re.compile(
    r"x-(amz|goog|oss|cos|obs|tos|bce)-[\w.-]*|(aws|google|oss)access(key)?id|key-pair-id|policy|"
    r"signature|expires?|sig|s[aeiprtv]|ss|srt|spr|sk[estv]|skoid|sktid|"
    r"((access|auth)[-_]?)?token|hdnts",
    re.IGNORECASE,
)
"""Parameters of a query that say who may read and until when, by S3, Google, Azure, CloudFront and
others.
"""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s/?#@]*@)?[^\s<>\"'`|(){}]+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BLANK = re.compile(r"\s")
_SECRET = re.compile(
    rf"([?&;](?:{_CREDENTIAL.pattern}|secret|password|api[-_]?key|key)=)[^\s&;'\"<>()]+|"
    r"((?:account_?key|sharedaccesssignature|(?:secret_?)?access_?key(?:_?id)?)"
    r"[\"']?\s*[=:]\s*)[^\s;,]+|"
    r"((?:authorization|bearer|basic)[\"']?:?\s+(?:bearer\s+|basic\s+)?)[\w.~+/=-]{8,}|"
    r"\bhf_[A-Za-z0-9]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*",
    re.IGNORECASE,
)
"""What else libraries put into their messages: parts of URLs, headers, settings, tokens by their
looks.
"""
_DEFAULT_PORTS = {"http": 80, "https": 443}


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


def redacted(text: str) -> str:
    """Return a URL, or a message that may hold some, as errors, logs and reports may show it.

    URLs lose user, password, query and fragment. In the rest of a message the values of parameters
    that sign or authorize, tokens and access keys become dots. A path of this machine stays as it
    is.

    Args:
        text: one URL, or what a library says; its words are kept.
    """
    if "://" not in text:
        return _SECRET.sub(_dotted, text)
    if not _BLANK.search(text) or (_SCHEME.match(text) and ": " not in text):
        return _redacted_url(text)  # a URL by itself may have blanks in it
    return _SECRET.sub(_dotted, _URL.sub(lambda found: _redacted_url(found[0]), text))


def _redacted_url(url: str) -> str:
    if is_local(url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL, so no telling where its secrets are
        return f"{url.partition('://')[0]}://..."
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _dotted(found: re.Match[str]) -> str:
    return next((kept for kept in found.groups() if kept), "") + "..."


def place_of(url: str) -> str:
    """Return what a remote URL names, whoever reads it: one text for one object.

    User, password, signatures, tokens and expiry are left out, so that a URL that is signed anew
    names the same place. Other parameters of a query stay, because they may tell objects apart.

    Args:
        url: of a remote file; see `storage.identity`, which knows more of some schemes.

    Returns:
        The canonical URL; the URL as it is where it cannot be taken apart.
    """
    try:
        parts = urlsplit(url)
        host = _host_of(parts)
    except ValueError:
        return url
    kept = [
        pair
        for pair in parse_qsl(parts.query, keep_blank_values=True)
        if not _CREDENTIAL.fullmatch(pair[0])
    ]
    return urlunsplit((parts.scheme.lower(), host, parts.path, urlencode(sorted(kept)), ""))


def _host_of(parts: SplitResult) -> str:
    """The network location without user and password, nor a port that goes without saying."""
    location = parts.netloc.rpartition("@")[2]
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        return location  # the name of a bucket, where case counts
    return location.lower().removesuffix(f":{_DEFAULT_PORTS[scheme]}")
