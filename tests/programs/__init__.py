"""Programs that tests run in other environments and share code with."""
