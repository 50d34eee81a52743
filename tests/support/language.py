"""The annotation columns of LeRobot v3.1: `language_persistent` and `language_events`, lists of
messages per row.

Types as lerobot/datasets/language.py has them: `language_persistent_arrow_type`,
`language_events_arrow_type`.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

PERSISTENT, EVENTS = KEYS = ("language_persistent", "language_events")

_AS_JSON = {"ARROW:extension:name": "arrow.json", "ARROW:extension:metadata": ""}
JSON_TEXT: pa.DataType | pa.Field = (
    pa.json_() if hasattr(pa, "json_") else pa.field("element", pa.string(), metadata=_AS_JSON)
)
"""Arrow's JSON type; before pyarrow 19 the text that files hold of it, which says that it is
JSON.
"""


def _arrow_type(*, has_timestamp: bool) -> pa.DataType:
    fields = [
        pa.field("role", pa.string(), nullable=False),
        pa.field("content", pa.string()),
        pa.field("style", pa.string()),
        *([pa.field("timestamp", pa.float32(), nullable=False)] if has_timestamp else []),
        pa.field("camera", pa.string()),
        pa.field("tool_calls", pa.list_(JSON_TEXT)),
    ]
    return pa.list_(pa.struct(fields))


def _hf_type(*, has_timestamp: bool) -> dict[str, Any]:
    """What the `datasets` library notes of such a column in a file's metadata."""
    names = ["role", "content", "style", *(["timestamp"] if has_timestamp else []), "camera"]
    message: dict[str, Any] = {
        name: {"dtype": "float32" if name == "timestamp" else "string", "_type": "Value"}
        for name in names
    }
    message["tool_calls"] = {"feature": {"_type": "Json"}, "_type": "List"}
    return {"feature": message, "_type": "List"}


TYPES = {PERSISTENT: _arrow_type(has_timestamp=True), EVENTS: _arrow_type(has_timestamp=False)}
HF_TYPES = {PERSISTENT: _hf_type(has_timestamp=True), EVENTS: _hf_type(has_timestamp=False)}


def samples(episode: int, length: int, fps: int) -> dict[str, list[list[dict[str, Any]]]]:
    """What each row's sample holds: persistent messages on every row, events on some, in any
    script.

    Tool calls are objects there, as the `datasets` library gives them.
    """
    said = [
        {
            "role": "assistant",
            "content": f"subtask {episode}/{number} → 抓取",
            "style": "subtask",
            "timestamp": number / fps,
            "camera": None,
            "tool_calls": None,
        }
        for number in range(1 + episode % 3)
    ]
    call = {
        "type": "function",
        "function": {"name": "say", "arguments": {"text": 'so "far" 🧊', "loud": episode}},
    }
    events = [
        {"role": "user", "content": None, "style": None, "camera": None, "tool_calls": [call, {}]},
        {
            "role": "user",
            "content": "",
            "style": "vqa",
            "camera": "observation.images.top",
            "tool_calls": [],
        },
    ]
    return {PERSISTENT: [said] * length, EVENTS: [events[: row % 3] for row in range(length)]}


def column(key: str, episode: int, length: int, fps: int) -> pa.Array:
    """Return a column of messages as parquet holds it: tool calls are JSON texts, of which only a
    cast makes Arrow's JSON type.
    """
    rows = [[_stored(message) for message in row] for row in samples(episode, length, fps)[key]]
    fields = [
        pa.field("tool_calls", pa.list_(pa.string())) if field.name == "tool_calls" else field
        for field in TYPES[key].value_type
    ]
    return pa.array(rows, type=pa.list_(pa.struct(fields))).cast(TYPES[key])


def _stored(message: dict[str, Any]) -> dict[str, Any]:
    calls = message["tool_calls"]
    return message | {"tool_calls": None if calls is None else [json.dumps(call) for call in calls]}
