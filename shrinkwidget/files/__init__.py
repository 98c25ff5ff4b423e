"""What is written and read: the packed format.

`pack` puts a model's codes and kept tensors together, `PackedModel.nbytes` knows the file's size without writing it,
`PackedModel.save` writes it, and `read` reads it back, as a `PackedModel` or into a model.
"""

from .packed_file_reader import read
from .packed_file_writer import PackedModel, pack

__all__ = ["PackedModel", "pack", "read"]
