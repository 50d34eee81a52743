"""Several datasets loaded as one: what each part is, and what samples of all of them hold."""
