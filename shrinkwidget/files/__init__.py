"""What is written and read: the packed format.

`save` writes a `PackedModel`, whose `nbytes` knows the file's size without writing it, and `read` reads it back, as a
`PackedModel` or into a model.
"""

from .read_packed_file_into_model import read
from .write_packed_file import entropy_coded_bytes, file_parts, save

__all__ = ["entropy_coded_bytes", "file_parts", "read", "save"]
