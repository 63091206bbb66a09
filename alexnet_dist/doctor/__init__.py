"""The preflight of a run, on one machine or on all of them, and its drill: a job under random faults."""
