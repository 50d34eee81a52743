"""The pictures of the coming steps, decoded ahead by threads into the memory of their batches.

Which file does what, from the stage to the single visit of a slice:

    decode_ahead.py     the stage: which steps are drawn, have memory, are announced
    request_queue.py    which pictures are wanted next, a GOP of a slice at a time
    decode_threads.py   the threads that serve them
    visit.py            a slice while one of them decodes it
    kept_frames.py      pictures that were decoded before their step had memory
    copies.py           pictures that a frame cache has
    thread_limit.py     how many threads gain something
    switch_interval.py  how the user's program shares the interpreter's lock with them
"""
