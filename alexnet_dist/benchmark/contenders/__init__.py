"""The contenders of the benchmarks, each measured in its own process: this package and its alternatives."""
