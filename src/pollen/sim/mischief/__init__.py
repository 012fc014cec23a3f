"""What goes wrong, and who asks for things meanwhile."""
