"""The methods by name, each as ``module:function``; imports nothing heavy, so that ``--help`` can list them.

A method is a function ``(options, task) -> Method`` (:mod:`osrjax.methods.method`).
"""

from types import MappingProxyType

__all__ = ["METHODS", "MethodName"]

MethodName = str  # a name of METHODS, or MODULE:FUNCTION

METHODS = MappingProxyType(
    {
        "m_ovr": "osrjax.methods.classify:m_ovr",  # margin on all angles
        "m_ovr_target": "osrjax.methods.classify:m_ovr_target",  # margin on the labelled class alone
        "ovr": "osrjax.methods.classify:ovr",  # no margin
        "cosine_softmax": "osrjax.methods.classify:cosine_softmax",
        "softmax": "osrjax.methods.classify:softmax",  # linear logits, as doc
        "doc": "osrjax.methods.classify:doc",
        "contrast": "osrjax.methods.contrast:contrast",
    }
)
