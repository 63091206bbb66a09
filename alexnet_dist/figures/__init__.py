"""Pictures of a run: its curves, first-layer kernels, predictions and nearest neighbours."""
