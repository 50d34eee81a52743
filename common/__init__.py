"""What all other packages need, and what knows of none of them.

errors       the errors that users see
interrupts   ending long work on Ctrl-C
jsonio       strict JSON, in and out
option_values  numbers and switches as users give them
permute      a keyed bijection, for every order that is computed
plain        text of a dataset as it may be printed
progress     the display of what takes long
selection    "0:100,205"
"""
