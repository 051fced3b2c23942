"""Where a program runs: CPU settings, convolutions, meshes, processes.

Knows JAX and the operating system; nothing of networks, data or runs. Modules are imported by name:
``from osrjax.devices import sharding``.
"""
