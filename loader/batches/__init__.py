"""Pictures put into the memory of their batches, decoded ahead by threads."""
