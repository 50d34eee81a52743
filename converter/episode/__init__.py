"""One episode, read whole: its rows, its images, and what each camera shows in them."""
