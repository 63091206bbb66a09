"""Ranks: their topology and groups, the link between towers, sums over replicas, lost ranks."""
