"""What training does to a network: norms of a data set, probes, claims, costs of a compiled step.

Measures trained or training networks and decides claims; draws nothing. Modules are imported by name:
``from osrjax.analysis import probe``.
"""
