"""What runs without the repository: ``python -m osrjax COMMAND``.

One file per command, which is also a script of experiments/; it parses and prints, and computes nothing itself.
"""
