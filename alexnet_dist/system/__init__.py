"""What a process needs of the operating system: files, signals, its environment, its machine, other processes."""
