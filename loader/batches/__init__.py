"""Memory of batches, and what is put into it."""
