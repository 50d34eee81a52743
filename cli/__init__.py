"""The command line: thin commands over shards, converter and loader."""
