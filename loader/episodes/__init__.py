"""Episodes in memory: read ahead and verified, their rows as arrays, their cameras as videos."""
