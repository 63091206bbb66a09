"""The network: its geometry, its layers, the two towers, and scores. Nothing here knows of other processes."""
