"""The values of an episode's rows: whether a loader can make samples of them, and which are
missing.
"""

from collections.abc import Collection

import pyarrow as pa

from roboshard.common.errors import FormatError
from roboshard.common.selection import some
from roboshard.shards.features import OBJECT_DTYPES, ROW_DTYPES, SCALAR_DTYPES, Features
from roboshard.shards.images import check_image, most_pixels, read_image
from roboshard.shards.missing import is_list, missing_values
from roboshard.tools.verify.problems import CONVERT_AGAIN, REBUILD, Place


def check_values(
    rows: pa.Table,
    features: Features,
    stated: dict[str, int] | None,
    decoded: Collection[int],
    place: Place,
) -> None:
    """Report what no loader can make samples of, and count the values that are missing.

    Args:
        rows: the episode's rows.
        features: the features of the dataset.
        stated: what the manifest says is missing; None: it says nothing that can be used.
        decoded: rows whose images are decoded; of all others the header is read.
        place: where problems are reported.
    """
    missing = missing_values(rows, features)
    place.problems.count_missing(missing)
    if stated and stated != missing:
        place.report(f"values are missing: {missing}, {stated} in the manifest", REBUILD)
    for key, spec in features.items():
        dtype = spec.get("dtype")
        if dtype not in ROW_DTYPES or key not in rows.column_names:
            continue
        kind = rows.schema.field(key).type
        if not _fits(kind, str(dtype)):
            place.report(
                f"feature {key!r} is stored as {kind}, of which no {dtype} can be made",
                CONVERT_AGAIN,
            )
        elif dtype == "image":
            column = rows.column(key).combine_chunks()
            _check_images(column, most_pixels(spec), decoded, f"feature {key!r}", place)


def _fits(kind: pa.DataType, dtype: str) -> bool:
    if pa.types.is_null(kind):
        return True
    if dtype == "image":
        inner = kind.field("bytes").type if _has_bytes(kind) else kind
        return bool(pa.types.is_binary(inner) or pa.types.is_large_binary(inner))
    if dtype in OBJECT_DTYPES:
        return dtype == "string" or is_list(kind)
    while is_list(kind):
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return dtype in SCALAR_DTYPES and bool(
        is_number or pa.types.is_boolean(kind) or pa.types.is_null(kind)
    )


def _has_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _check_images(
    column: pa.Array, most: int, decoded: Collection[int], where: str, place: Place
) -> None:
    if pa.types.is_null(column.type):
        return
    files = column.field("bytes") if _has_bytes(column.type) else column
    wrong = []
    for row, file in enumerate(files):
        if not file.is_valid:
            continue
        try:
            (read_image if row in decoded else check_image)(
                file.as_py(), most, f"{where}, row {row}"
            )
        except FormatError as error:
            wrong.append(str(error))
    if wrong:
        place.report(f"{len(wrong)} images cannot be read: {some(wrong)}", CONVERT_AGAIN)
