"""What must hold, what a run came to, and how it is judged."""
