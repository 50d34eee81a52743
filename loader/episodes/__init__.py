"""Episodes in memory: read ahead and verified, their rows as arrays, their slices as open decoders."""
