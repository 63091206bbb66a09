"""The demo: draw images, pack them, train two replicas of two linked towers, evaluate, and say what happened."""
