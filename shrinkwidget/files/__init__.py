"""What is written and read: the packed format.

`save` writes a `PackedModel`, whose `nbytes` knows the file's size without writing it, and `read` reads it back, as a
`PackedModel` or into a model.
"""

from .packed_file_reader import read
from .packed_file_writer import entropy_coded_bytes, file_parts, save

__all__ = ["entropy_coded_bytes", "file_parts", "read", "save"]
