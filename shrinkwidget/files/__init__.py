"""What is written and read: the packed format.

`pack` puts a model's codes and kept tensors together, `Packed.nbytes` knows the file's size without writing it,
`Packed.save` writes it, and `read` reads it back, as a `Packed` or into a model.
"""

from .load import read
from .packed import Packed, pack

__all__ = ["Packed", "pack", "read"]
