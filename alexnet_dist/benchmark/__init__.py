"""The benchmarks: ours beside named alternatives, on the same bytes and cores, in one interleaved run."""
