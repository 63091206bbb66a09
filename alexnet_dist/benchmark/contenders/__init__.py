"""What a benchmark runs, each in a process of its own: ours, and the alternatives it is compared with."""
