"""Everything that makes new weights: prune, quantize, compress."""
