"""A summary of a packed split, and a sheet of its samples as the net sees them."""
