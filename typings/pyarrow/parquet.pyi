from collections.abc import Iterator
from pathlib import Path

from pyarrow import RecordBatch

class FileMetaData:
    num_rows: int

class ParquetFile:
    metadata: FileMetaData
    def __init__(self, source: Path) -> None: ...
    def iter_batches(self, batch_size: int = ...) -> Iterator[RecordBatch]: ...
