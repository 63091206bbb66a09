"""The drill: a job under random faults, beside the same job without them."""
