"""What a process needs of the operating system: files, signals, environment, machine, processes; and random numbers."""
