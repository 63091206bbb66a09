"""The report of a run: one self-contained page of its records and its net, as a file or live."""
