"""Packing: convert a source of images to shards with one command, ``python -m alexnet_dist.pack SOURCE OUT``.

`packing` describes the order of the work and how an interrupted pack resumes.
"""
