"""The data plane: what a packed set is, in which order it is read, and how it becomes batches."""
