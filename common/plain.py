"""Text that comes from data, as it may be printed: the one place where it is made harmless.

Task texts, names of features, codecs and files come from whoever made a dataset. A terminal obeys
control characters (OSC 52 writes the clipboard), rich obeys square brackets, and a bidirectional
override shows a line in another order than it is read.
"""

import re

from rich.markup import escape

MAX_PRINTED = 4000
"""Characters of one text that are printed."""

# Controls (C0, DEL, C1), halves of surrogate pairs, line and paragraph separators, marks that turn
# the direction of text, interlinear annotations, tags.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
# A backslash before a bracket is dropped by rich, where no tag follows, which `escape` sees to.
_BEFORE_BRACKETS = re.compile(r"(\\+)(?=\[(?![a-z#/@][^[]*?]))")
_BREAKS = re.compile(r"[ \t]*(?:\r\n|[\t\n\v\f\r\x85\u2028\u2029])[ \t]*")


def plain(text: object, *, lines: bool = False) -> str:
    """Return text without anything that a terminal, a log or a page acts on.

    Args:
        text: what is to be printed; anything but a string is taken as `str` writes it.
        lines: keep line breaks but the last ones, as messages of several lines have them.
            Otherwise they are spaces.

    Returns:
        The text, cut to MAX_PRINTED characters; unsafe characters are written as escapes (`\\x1b`).
    """
    whole = str(text)
    kept = whole if len(whole) <= MAX_PRINTED else f"{whole[:MAX_PRINTED]}…"
    parts = kept.splitlines() if lines else [_BREAKS.sub(" ", kept)]
    return "\n".join(_UNSAFE.sub(_escaped, part) for part in parts).rstrip("\n")


def as_markup(text: object, *, lines: bool = False) -> str:
    """Return `plain` text for what reads rich's markup: square brackets in it mean nothing."""
    shown = plain(text, lines=lines)
    kept = shown.rstrip("\\")
    # Backslashes before a tag, which may follow, are written twice; so let a tag follow, of no
    # text.
    end = "\\\\" * (len(shown) - len(kept)) + "[none][/none]" if kept != shown else ""
    return escape(_BEFORE_BRACKETS.sub(r"\1\\", kept)) + end


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
