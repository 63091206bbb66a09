"""Demo: draw images, pack them, train two replicas of two linked towers, evaluate, and print a report."""
