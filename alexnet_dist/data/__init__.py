"""The data pipeline: the format of a packed set, the order in which it is read, and how batches are loaded."""
