"""What Slurm is told, and what it says: jobs as text (script.py, state.py), the commands that are
run (commands.py), and the program that runs in the job itself (batch.py)."""
