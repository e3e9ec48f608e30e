"""Processes of an attempt, started in milliseconds: forked from one that has imported torch.

Importing torch and the trainer takes seconds of a core for each process, and after a fault these
are seconds in which all GPUs wait. So the first supervisor of a run on a host starts a forge
(server.py), which imports them once and stays; whatever is then to be `python -m MODULE` is
started through child.py, which has the forge fork it, and stands in for it: whoever started
child.py sees its exit code, its signals reach it, and one does not outlive the other. Where there
is no forge, or one of other code or another environment, child.py becomes the module itself.
"""
