"""One node's own software: a wheel is checked, put in place, and taken back when it fails."""
