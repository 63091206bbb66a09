"""The benchmarks: this package and named alternatives, on the same bytes and cores, in one interleaved run."""
