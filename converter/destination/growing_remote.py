"""Object storage whose dataset grows: it stays what it was until all new shards are there.

There is no lock. An append claims the numbers of its shards before it sends the first one:

    URL/.roboshard/append-CONVERSION.json   which snapshot it grows; its first shard, and how many

and takes none that another one has claimed. So two that run at once do not meet; the one that ends
first has published, and the other finds that the dataset is no longer the one that it grows, and
ends with an error. What is claimed for an older snapshot can never be published: the next append
that does publish removes it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from roboshard.common import jsonio
from roboshard.common.errors import FormatError, OptionError
from roboshard.converter.base import Base
from roboshard.converter.destination.api import files_of, kept_skipped, write_skipped
from roboshard.converter.destination.growing_folder import has_changed_error, publish_grown
from roboshard.converter.destination.remote import (
    MAX_RECEIPT_BYTES,
    RECEIPTS,
    RemoteDestination,
    receipt_name,
)
from roboshard.converter.work_folder import work_folder
from roboshard.shards.names import (
    DATASET_MANIFEST,
    MAX_SHARDS,
    SKIPPED_REPORT,
    is_shard_name,
    shard_name,
    shard_number,
)
from roboshard.shards.schema import (
    MAX_MANIFEST_BYTES,
    Conversion,
    DatasetManifest,
    Provenance,
    ShardManifest,
)
from roboshard.storage import Upload

CLAIM = f"{RECEIPTS}/append-"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Which numbers an append has taken for its shards."""

    grows: str
    """Fingerprint of the dataset that the append adds to."""
    first_shard: int
    num_shards: int

    @property
    def numbers(self) -> range:
        """Numbers of the shards that the append has claimed."""
        return range(self.first_shard, self.first_shard + self.num_shards)

    def meets(self, other: "Claim") -> bool:
        """Return whether both claims have taken the same number."""
        return max(self.first_shard, other.first_shard) < min(self.numbers.stop, other.numbers.stop)


class GrowingRemote(RemoteDestination):
    """A place in object storage with a dataset to which shards are added."""

    def __init__(self, url: str, conversion: Conversion, scratch: str | None, base: Base) -> None:
        """Add the shards of a conversion to `base`, which lies at `url`."""
        super().__init__(url, conversion.id, conversion.num_shards, scratch)
        self._base = base
        self._first = base.next_shard
        self._claims: dict[str, Claim] = {}

    @property
    def first_shard(self) -> int:
        """Number of the first new shard; known once the destination is prepared."""
        return self._first

    @contextmanager
    def prepared(self, part: range | None) -> Iterator[None]:  # noqa: ARG002 - of all shards at once
        """Make a folder for what is on its way, and claim the numbers of the new shards."""
        with work_folder(self._scratch) as self._work:
            self._check_base()
            self._there = self._target.files()
            self._claims = self._read_claims(self._there)
            if self._num_shards:
                self._claim()
            else:
                self._tidy(self._base.manifest)
            yield

    def publish_skipped(self, skipped: Sequence[tuple[int, str]], tried: Set[int]) -> None:
        """Send skipped.json, in which earlier episodes stay that this run was not about."""
        old = None
        if SKIPPED_REPORT in self._there:
            old = self._target.read_all(SKIPPED_REPORT, MAX_MANIFEST_BYTES)
        together = [*kept_skipped(old, tried), *skipped]
        write_skipped(self._work, together)
        if together:
            self._target.put([Upload(path=SKIPPED_REPORT, content=self._work / SKIPPED_REPORT)])
        elif old is not None:
            self._target.remove([SKIPPED_REPORT])

    def publish(self, provenance: Provenance, manifests: Sequence[ShardManifest]) -> None:
        """Send what the dataset was, the index, then dataset.json in place of the old one; tidy
        up.
        """

        def put(name: str, data: bytes) -> None:
            self._target.put([Upload(path=name, content=data)])

        grown = publish_grown(self._base, provenance, manifests, self._check_base, put)
        self._tidy(grown)

    def _check_base(self) -> None:
        """Raise OptionError unless dataset.json is what it was when the append was planned."""
        self._target.forget(DATASET_MANIFEST)
        if self._target.read_all(DATASET_MANIFEST, MAX_MANIFEST_BYTES) != self._base.data:
            raise has_changed_error(self.shown)

    # -- Claims ------------------------------------------------------------------------------------

    @property
    def _claim_name(self) -> str:
        return f"{CLAIM}{self._conversion}.json"

    def _claim(self) -> None:
        """Take numbers that nobody else has, or those that a killed run of this append had taken.

        Raises:
            OptionError: another append took them at the same moment.
        """
        mine = self._claims.get(self._claim_name)
        if mine is None:
            taken = [shard_number(path) for path in self._there if is_shard_name(path)]
            stops = [claim.numbers.stop for claim in self._claims.values()]
            first = max([self._first, *(number + 1 for number in taken), *stops])
            mine = Claim(
                grows=self._base.manifest.fingerprint,
                first_shard=first,
                num_shards=self._num_shards,
            )
            shard_name(mine.numbers[-1])  # one that is too large is an error now
            content = json.dumps(asdict(mine)).encode()
            self._target.put([Upload(path=self._claim_name, content=content)])
            others = self._read_claims(self._target.files())
            others.pop(self._claim_name, None)
            if any(mine.meets(claim) for claim in others.values()):
                self._target.remove([self._claim_name])
                raise OptionError(
                    f"{self.shown}: another append began at the same moment; run this one again"
                )
            self._claims[self._claim_name] = mine
        self._first = mine.first_shard

    def _read_claims(self, there: Mapping[str, object]) -> dict[str, Claim]:
        found = {}
        for path in sorted(there):
            if path.startswith(CLAIM):
                data = self._target.read_all(path, MAX_RECEIPT_BYTES)
                claim = _parsed(data, path)
                if claim is not None:
                    found[path] = claim
        return found

    def _tidy(self, manifest: DatasetManifest) -> None:
        """Remove what is claimed for an older snapshot, with its receipts; listed shards stay.

        Only shards that were there when this run began are removed, and the claims that it knows.
        """
        listed = {path for shard in manifest.shards for path in (shard.name, shard.manifest.name)}
        old = {
            path: claim
            for path, claim in self._claims.items()
            if claim.grows != manifest.fingerprint
        }
        shards = [
            shard_name(number)
            for claim in old.values()
            for number in claim.numbers
            if shard_name(number) in self._there or shard_name(number) in listed
        ]
        left = [path for shard in shards for path in files_of(shard) if path in self._there]
        self._target.remove([path for path in left if path not in listed])
        receipts = set(map(receipt_name, shards)) & set(self._target.files())
        self._target.remove(sorted(receipts))
        self._target.remove(sorted(old))


def _parsed(data: bytes, path: str) -> Claim | None:
    """Parse a claim; None: the data is no claim."""
    try:
        value = jsonio.load(data, path, MAX_RECEIPT_BYTES)
        first, count = value["first_shard"], value["num_shards"]
    except (FormatError, KeyError):
        return None
    are_numbers = all(
        isinstance(number, int) and 0 <= number <= MAX_SHARDS for number in (first, count)
    )
    grows = value.get("grows")
    if not are_numbers or not isinstance(grows, str):
        return None
    return Claim(grows=grows, first_shard=first, num_shards=count)
