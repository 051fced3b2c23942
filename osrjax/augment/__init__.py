"""What happens to training images before a network sees them: pixels, crops, colours, policies, mixing, views.

Here stand pure functions of a key and images, on the device, without labels and without a network. Corruptions of test
images on the host are :mod:`osrjax.data.corruptions`.
"""

from osrjax.augment.augment import (
    color_jitter,
    cutout,
    quarter_turns,
    random_crop,
    random_crop_and_flip,
    random_flip,
    random_grayscale,
    random_quarter_turns,
    random_resized_crop,
)
from osrjax.augment.mixing import (
    Fill,
    Mixed,
    Weight,
    cutmix,
    fmix,
    gradmix,
    gradmix_share,
    mixup,
    random_box,
    saliency_mix,
)
from osrjax.augment.pixels import (
    to_float,
    to_float_host,
)
from osrjax.augment.policies import (
    POLICIES,
    aug_mix,
    rand_augment,
)
from osrjax.augment.saliency import (
    spectral_residual_saliency,
)
from osrjax.augment.views import (
    VIEW_MIXINGS,
    MixedViews,
    PartnerMixing,
    SeparateMask,
    make_contrastive_augmentation,
    make_crop_and_flip,
    view_mixings,
)

__all__ = [
    "POLICIES",
    "VIEW_MIXINGS",
    "Fill",
    "Mixed",
    "MixedViews",
    "PartnerMixing",
    "SeparateMask",
    "Weight",
    "aug_mix",
    "color_jitter",
    "cutmix",
    "cutout",
    "fmix",
    "gradmix",
    "gradmix_share",
    "make_contrastive_augmentation",
    "make_crop_and_flip",
    "mixup",
    "quarter_turns",
    "rand_augment",
    "random_box",
    "random_crop",
    "random_crop_and_flip",
    "random_flip",
    "random_grayscale",
    "random_quarter_turns",
    "random_resized_crop",
    "saliency_mix",
    "spectral_residual_saliency",
    "to_float",
    "to_float_host",
    "view_mixings",
]
