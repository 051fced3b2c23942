"""What runs without the repository: ``python -m osrjax COMMAND``.

One file a command, which is also a script of experiments/; parses and prints, and computes nothing itself.
"""
