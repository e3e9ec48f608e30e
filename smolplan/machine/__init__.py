"""What the running system tells of itself in /proc, /sys and /dev."""
