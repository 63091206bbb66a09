"""The audit: the claims of the paper and of its source that need no training, each beside what the code does."""
