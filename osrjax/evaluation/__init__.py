"""From outputs of a network to all scores x all metrics, and the linear probe of frozen features.

Arrays in, numbers out; what produced the outputs is a method's business.
"""
