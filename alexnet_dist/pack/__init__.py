"""Packing: from a source of images to shards, in one command: ``python -m alexnet_dist.pack SOURCE OUT``.

The order of the work and what a killed run leaves behind are told in `run`.
"""
