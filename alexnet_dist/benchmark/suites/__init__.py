"""The benchmarks: which contenders each one runs, and which ratios it reports."""
