"""The benchmarks: which contenders each one runs, and the ratios it reports."""
