"""What a daemon tells of itself: logs, metrics, traces, the doctor."""
