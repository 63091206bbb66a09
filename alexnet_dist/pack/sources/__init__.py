"""The sources of images that pack reads: `layouts` detects the layout of one, and a module per layout lists it."""
