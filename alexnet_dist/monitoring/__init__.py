"""What a run shows of itself: times of a step, Prometheus metrics, profiles."""
