"""Training: `train` is the story of a run, `loop` its steps, and one module for each part they use."""
