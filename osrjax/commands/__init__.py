"""What runs without the repository: ``osrjax COMMAND``, one name of ``osrjax.__main__`` a file.

Each is also a script of experiments/, which only calls its ``main(arguments, *, script)``; it parses and prints, and
computes nothing itself.
"""
