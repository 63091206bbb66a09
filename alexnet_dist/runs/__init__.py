"""What a run leaves on disk: its directory, its checkpoints, and a finished run in use."""
