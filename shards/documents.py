"""What all JSON documents of the shard format are made of."""

from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

MAX_FRAMES = 1 << 40

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=MAX_FRAMES)]
Positive = Annotated[int, Field(ge=1, le=MAX_FRAMES)]


class Document(BaseModel):
    """Base of all documents: immutable, strictly typed, unknown fields kept."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, ser_json_inf_nan="constants")


class SparseDocument(Document):
    """A document with fields that are written only where there is something in them."""

    absent_if_empty: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that are not written where they are empty."""

    @model_serializer(mode="wrap")
    def _without_empty(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = write(self)
        for name in self.absent_if_empty:
            if not value.get(name):
                value.pop(name, None)
        return value


class Finding(Document):
    """Something odd in the source of an episode, which is read all the same."""

    code: str
    """Kind of the finding; docs/sources.md says how each is read."""
    where: str
    """The file, row or feature that is odd."""
    what: str
    """What is odd."""


class FileEntry(Document):
    """Size and hash of a file beside the manifest."""

    name: str
    size: Count
    sha256: Sha256
