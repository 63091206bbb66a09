"""The layouts of image sets that pack reads: one module for each, selected by `layouts`."""
