"""The methods by name, each as ``module:function``; imports nothing heavy, so that ``--help`` can list them.

A method is a function ``(options, task) -> Method`` (:mod:`osrjax.methods.method`), or a class loss, which
:func:`osrjax.methods.classify` makes a method of.
"""

from types import MappingProxyType

__all__ = ["METHODS", "METHOD_SOURCE", "MethodName"]

MethodName = str  # a name of METHODS, or MODULE:FUNCTION

METHOD_SOURCE = "source of "  # begins the names under which runs remember checksums of the files of other methods

METHODS = MappingProxyType(
    {
        "m_ovr": "osrjax.methods.class_losses:M_OVR",  # margin on all angles
        "m_ovr_target": "osrjax.methods.class_losses:M_OVR_TARGET",  # margin on the labelled class alone
        "ovr": "osrjax.methods.class_losses:OVR",  # no margin
        "cosine_softmax": "osrjax.methods.class_losses:COSINE_SOFTMAX",
        "softmax": "osrjax.methods.class_losses:SOFTMAX",  # linear logits, as doc
        "doc": "osrjax.methods.class_losses:DOC",
        "cac": "osrjax.methods.class_losses:CAC",  # anchors in logit space
        "rpl": "osrjax.methods.class_losses:RPL",  # reciprocal points
        "arpl": "osrjax.methods.class_losses:ARPL",  # reciprocal points, without generated images
        "contrast": "osrjax.methods.contrastive:contrast",
    }
)
