from collections.abc import Iterator
from io import RawIOBase

from pyarrow import RecordBatch

class RecordBatchFileReader:
    num_record_batches: int
    def get_batch(self, i: int) -> RecordBatch: ...

def open_file(source: RawIOBase) -> RecordBatchFileReader: ...
def open_stream(source: RawIOBase) -> Iterator[RecordBatch]: ...
