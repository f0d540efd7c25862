"""The formats of training data: imagefolder, WebDataset and Parquet. Each writes one file of an export."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batchgen.export.selection import Item

_ROWS_IN_GROUP = 100
_BYTES_IN_GROUP = 64 * 2**20  # what is held in memory, and read at once by whoever streams


class Writer(Protocol):
    """Writes images into one file, in their order. `data` is empty where the format holds no bytes of images."""

    def add(self, item: Item, data: bytes) -> None: ...

    def close(self) -> None: ...


class ImageFile:
    """One image as a file of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, item: Item, data: bytes) -> None:
        del item
        self._path.write_bytes(data)

    def close(self) -> None: ...


class JsonLines:
    """A line of JSON for each image. `in_split`: names are relative to the folder of their split."""

    def __init__(self, path: Path, columns: Mapping[str, type], *, in_split: bool = False) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._columns = columns
        self._in_split = in_split

    def add(self, item: Item, data: bytes) -> None:
        del data
        name = item.name.removeprefix(f"{item.split}/") if self._in_split else item.name
        record = {"file_name": name, **typed(item.record, self._columns)}  # a table has its own file_name
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class WebDatasetShard:
    """A tar archive with an image, its prompt as text and the rest as JSON, under a name that they share."""

    def __init__(self, path: Path, columns: Mapping[str, type]) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by `close`
        self._columns = columns

    def add(self, item: Item, data: bytes) -> None:
        record = json.dumps(typed(item.record, self._columns), ensure_ascii=False)
        ext = item.name.rpartition(".")[2]
        for end, body in ((ext, data), ("json", record.encode()), ("txt", item.record.get("prompt", "").encode())):
            member = tarfile.TarInfo(f"{item.key}.{end}")  # a member's own time and owner would change its bytes
            member.size = len(body)
            self._tar.addfile(member, io.BytesIO(body))

    def close(self) -> None:
        self._tar.close()


class ParquetShard:
    """A Parquet file whose column `image` Hugging Face's `datasets` reads as images."""

    def __init__(self, path: Path, columns: Mapping[str, type]) -> None:
        import pyarrow as pa  # noqa: PLC0415 - of the extra `export`
        import pyarrow.parquet as pq  # noqa: PLC0415

        self._columns = columns
        types = {int: pa.int64(), float: pa.float64(), str: pa.string()}
        image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        features = {name: {"dtype": str(types[kind]), "_type": "Value"} for name, kind in columns.items()}
        described = {"info": {"features": {"image": {"_type": "Image"}, **features}}}
        fields = [("image", image), *((name, types[kind]) for name, kind in columns.items())]
        self._schema = pa.schema(fields, metadata={"huggingface": json.dumps(described)})
        texts = list(columns)
        self._file = pq.ParquetWriter(  # images are compressed already
            path, self._schema, compression="none", use_dictionary=texts, write_statistics=texts
        )
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, item: Item, data: bytes) -> None:
        image = {"bytes": data, "path": item.name}
        self._rows.append({"image": image, **typed(item.record, self._columns)})
        self._bytes += len(data)
        if len(self._rows) >= _ROWS_IN_GROUP or self._bytes >= _BYTES_IN_GROUP:
            self._write_group()

    def close(self) -> None:
        self._write_group()
        self._file.close()

    def _write_group(self) -> None:
        import pyarrow as pa  # noqa: PLC0415

        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0


def typed(record: Mapping[str, Any], columns: Mapping[str, type]) -> dict[str, Any]:
    """The record with all columns: None where it has nothing, so that each row of an export has the same types."""
    return {name: None if (value := record.get(name)) is None else kind(value) for name, kind in columns.items()}
