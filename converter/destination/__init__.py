"""Where the shards of a conversion go: a folder, or object storage."""
