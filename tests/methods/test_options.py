"""What a user can choose of a method: what is refused, what is traced, and that a method reads what it names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import plain_module

from osrjax.fields import check_fields
from osrjax.methods import (
    CLASS_LOSSES,
    METHODS,
    ClassifyOptions,
    ClassLoss,
    ContrastOptions,
    Options,
    Task,
    classify,
    find_method,
    make_method,
    options as module,
    options_of,
    structure_of,
    traced_fields,
)
from osrjax.train.objective import Batch
from osrjax.train.step import init_state, make_train_step

TASK = Task(3, (8, 8, 1), 10)

REFUSED = [
    (ClassifyOptions, {"margin": float("nan")}, "margin=nan is not finite: give a number"),
    (ClassifyOptions, {"learning_rate": float("inf")}, "learning_rate=inf is not finite"),
    (ContrastOptions, {"temperature": float("-inf")}, "temperature=-inf is not finite"),
    (ClassifyOptions, {"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
    (ClassifyOptions, {"scale": -1.0}, "scale=-1.0 must be above 0"),
    (ClassifyOptions, {"margin": -0.1}, "margin=-0.1 must not be negative"),
    (ClassifyOptions, {"margin": 3.5}, "margin=3.5 is an angle in radians: give one below pi"),
    *((ClassifyOptions, {name: -1.0}, f"{name}=-1.0 must not be negative")
      for name in ("final_learning_rate", "weight_decay", "rotation_weight", "intra_weight", "inter_weight",
                   "mixed_weight")),
    (ClassifyOptions, {"crop_padding": -1}, "crop_padding=-1 must not be negative"),
    (ClassifyOptions, {"momentum": 1.0}, "momentum=1.0 must be in [0, 1)"),
    (ClassifyOptions, {"mixing": "gradmix", "rotations": "one"}, "mixing='gradmix' with rotations='one' is not built"),
    (ClassifyOptions, {"cam_sign": -1}, "cam_sign=-1 does nothing with mixing='none': leave it out"),
    (ClassifyOptions, {"fill": "mean"}, "fill='mean' does nothing with mixing='none'"),
    (ClassifyOptions, {"mixing": "random_box", "cam_layers": (1,)}, "cam_layers=(1,) does nothing with mixing='rand"),
    *((kind, {"mixing": "gradmix", "smallest_kept": low, "largest_kept": high},
       f"smallest_kept={low}, largest_kept={high}: give shares with 0 < smallest <= largest <= 1")
      for kind in (ClassifyOptions, ContrastOptions) for low, high in ((0.0, 0.9), (0.5, 1.2), (0.95, 0.9))),
    (ContrastOptions, {"temperature": 0.0}, "temperature=0.0 must be above 0"),
    (ContrastOptions, {"supcon_weight": -1.0}, "supcon_weight=-1.0 must not be negative"),
    (ContrastOptions, {"supcon_weight": 0.0, "ssl_weight": 0.0}, "leave nothing to minimise: raise one of them"),
    (ContrastOptions, {"ssl_weight": 0.0}, "ssl_weight=0 gives the mixed term of mixing='gradmix' no weight"),
    *((ContrastOptions, {name: 0}, f"{name}=0 must be above 0") for name in ("neighbours", "hidden", "features")),
    *((ContrastOptions, {name: 0.0}, f"{name}=0.0 must be above 0")
      for name in ("learning_rate", "mixing_alpha", "mixing_beta")),
    (ContrastOptions, {"final_learning_rate": -1.0}, "final_learning_rate=-1.0 must not be negative"),
    (ContrastOptions, {"jitter": -0.5}, "jitter=-0.5 must not be negative"),
    (ContrastOptions, {"jitter": 6.0}, "jitter=6.0 is above 5"),
    (ContrastOptions, {"cam_temperature": 0.0}, "cam_temperature=0.0 must be above 0, or left out"),
    (ContrastOptions, {"block_size": 0}, "block_size=0 must be at least 1, or left out"),
    (ContrastOptions, {"crop": False, "flip": False, "jitter": 0.0}, "give two equal views: turn one of them on"),
    (ContrastOptions, {"mixing": "none", "cam_method": "grad_cam"}, "cam_method='grad_cam' does nothing with mixing="),
    (ContrastOptions, {"mixing": "none", "mixing_alpha": 2.0}, "mixing_alpha=2.0 does nothing with mixing='none'"),
    (ContrastOptions, {"mixing": "none", "own_positive": True}, "own_positive=True does nothing with mixing='none'"),
    (ContrastOptions, {"mixing": "random_box", "cam_sign": -1}, "cam_sign=-1 does nothing with mixing='random_box'"),
    (ContrastOptions, {"mixing": "cutout", "mixing_alpha": 2.0}, "mixing_alpha=2.0 does nothing with mixing='cutout'"),
    *((ContrastOptions, {"mixing": name, "per_image": True}, f"per_image=True does nothing with mixing={name!r}")
      for name in ("mixup", "cutmix", "saliency_mix", "fmix")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_is_refused(kind, changes, message):
    """By name, with the value; a run's config.json is refused likewise, before anything is built."""
    options = kind(**changes)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_fields(options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError) as again:  # noqa: PT011
        make_method(dataclasses.asdict(options), TASK)
    assert str(again.value) == str(caught.value)


def test_what_is_meant_together_is_allowed():
    for options in (
        ClassifyOptions(),
        ClassifyOptions(mixing="gradmix", cam_sign=-1, cam_layers=(1, 2), fill="mean"),
        ClassifyOptions(mixing="random_box", fill="paste"),
        ClassifyOptions(rotations="all", rotation_weight=0.0, weight_decay=0.0, crop_padding=0),
        ContrastOptions(),
        ContrastOptions(mixing="none", ssl_weight=0.0),
        ContrastOptions(supcon_weight=0.0),
        ContrastOptions(mixing="mixup", mixing_alpha=0.5, clean_term=False),
        ContrastOptions(crop=False, jitter=0.0, policy="aug_mix"),
    ):
        check_fields(options)


def test_traced_numbers_and_structure():
    assert traced_fields(ClassifyOptions) == (
        "margin", "scale", "intra_weight", "inter_weight", "rotation_weight", "mixed_weight", "smallest_kept",
        "largest_kept", "learning_rate", "final_learning_rate", "weight_decay")  # fmt: skip
    assert set(traced_fields(ContrastOptions)) == {
        "supcon_weight", "ssl_weight", "temperature", "smallest_kept", "largest_kept", "learning_rate",
        "final_learning_rate"}  # fmt: skip
    for kind in (ClassifyOptions, ContrastOptions):
        options, traced = kind(), traced_fields(kind)
        structure = structure_of(options)
        hash(structure)
        assert {name for name, _ in structure} == {f.name for f in dataclasses.fields(kind)} - {*traced, "hyper"}
        other = dataclasses.replace(options, hyper=("gamma=1",), **dict.fromkeys(traced, 0.75))
        assert structure_of(other) == structure
        assert structure_of(dataclasses.replace(options, network="wrn16_4")) != structure
    assert structure_of(ClassifyOptions(momentum=0.5)) != structure_of(ClassifyOptions())


def test_options_of_a_stored_configuration():
    """Of another version, with fields that are none of a method's, and without some that a method has."""
    stored = {"method": "contrast", "network": "wrn16_4", "hidden": 7, "cam_layers": [2, 3], "seed": 4, "nothing": [1]}
    found = options_of(stored, ContrastOptions)
    assert found == ContrastOptions(method="contrast", network="wrn16_4", hidden=7, cam_layers=(2, 3))
    assert options_of(found, ContrastOptions) == found  # of an object
    assert options_of({"hyper": ["gamma=1"]}, Options).hyper == ("gamma=1",)
    method = make_method(stored | {"cam_layers": [2, 3], "network": "small_cnn"}, TASK)
    assert method.options == dataclasses.replace(found, network="small_cnn")


def test_a_configuration_without_a_method_and_methods_that_do_not_exist():
    for config in ({"loss": "m_ovr", "network": "small_cnn"}, {}):
        with pytest.raises(ValueError, match=r"^the configuration names no method, as in version"):
            make_method(config, TASK)
    for name, message in (
        ("hinge", "method='hinge' does not exist: choose from m_ovr, .*contrast, or give MODULE:FUNCTION of your own"),
        ("nowhere:focal", "'nowhere:focal' cannot be imported .*nowhere"),
        ("math:nothing", "'math:nothing' cannot be imported .*nothing"),
        ("math:pi", "method='math:pi' says no class of options: annotate its first argument"),
        ("math:", "'math:' is not of the form module:object"),
        ("textwrap:dedent", "method='textwrap:dedent' says no class of options: annotate its first argument"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            find_method(name)


@pytest.mark.parametrize("text", ["gamma", "gamma=", "delta=1", "gamma=wide"])
def test_own_hyper_parameters_are_names_and_numbers(text):
    options = ClassifyOptions(method="mine:mine", hyper=(text,))
    with pytest.raises(ValueError, match=f"^hyper='{text}' is no"):
        options.own_hyper({"gamma": 2.0})
    assert ClassifyOptions(hyper=("gamma=1",)).own_hyper({"gamma": 2.0, "delta": 3.0}) == {"gamma": 1.0, "delta": 3.0}
    with pytest.raises(ValueError, match="its own are none"):
        make_method({"method": "doc", "hyper": ["gamma=1"]}, TASK)


def test_a_network_that_does_not_exist_is_refused():
    plain = plain_module(module)  # a user has no types checked
    with pytest.raises(ValueError, match=r"^network='resnet20' does not exist: choose from small_cnn, fast_cnn, "):
        check_fields(plain.ClassifyOptions(network="resnet20"))


def test_a_loss_that_cannot_be_reported_or_read_is_refused():
    def method(*values):
        return classify(
            ClassifyOptions(), TASK, ClassLoss("linear", lambda logits, labels, hyper: logits[:, 0], *values)
        )

    with pytest.raises(ValueError, match=r"hyper=\['gamma'\] of the loss are no options: give them defaults"):
        method(("gamma",), "energy")
    with pytest.raises(ValueError, match="score='m_ovr' is none of the linear head: choose from max_softmax, "):
        method((), "m_ovr")
    with pytest.raises(ValueError, match=r"own=\['heat'\] of the loss are not among its hyper=\(\)"):
        method((), "energy", {"heat": 1.0})
    assert method(("gamma",), "energy", {"gamma": 1.0}).hyper["gamma"] == 1.0


VARIANTS = [
    *({"method": name} for name in METHODS),
    *({"method": "ovr", "rotations": rotations} for rotations in ("one", "all")),
    *({"method": "softmax", "mixing": mixing} for mixing in ("gradmix", "random_box")),
    *({"method": "contrast", "mixing": mixing} for mixing in ("none", "random_box", "mixup", "cutout")),
]


@pytest.mark.parametrize("config", VARIANTS, ids=lambda config: " ".join(config.values()))
def test_hyper_is_exactly_what_objective_and_optimiser_read(config):
    """Each number of it has a say in the step, and the step asks for no other."""
    small = {"network": "small_cnn", "hidden": 4, "features": 4, "cam_layers": [3] if "grad" in str(config) else []}
    method = make_method({**small, **config}, TASK)
    network = method.make_network(jnp.float32)
    step = make_train_step(method.make_objective(network), method.optimizer)
    hyper = {name: jnp.float32(value) for name, value in method.hyper.items()}
    batch = Batch(jnp.zeros((4, *TASK.image_shape), jnp.uint8), jnp.arange(4) % 3)
    state = jax.eval_shape(
        lambda: init_state(jax.random.key(0), network, method.optimizer, hyper, image_shape=TASK.image_shape)
    )
    traced = jax.make_jaxpr(lambda hyper, state: step(state, batch, jax.random.key(0), hyper))(hyper, state).jaxpr
    read = {variable for equation in traced.eqns for variable in equation.invars if not hasattr(variable, "val")}
    unread = [name for name, variable in zip(sorted(hyper), traced.invars, strict=False) if variable not in read]
    assert not unread
    fields = {f.name for f in dataclasses.fields(type(method.options))}
    own = {name for loss in CLASS_LOSSES.values() for name in loss.own}
    assert set(hyper) <= {*fields, *own, "schedule_steps", "attribution_temperature"}


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        (["gamma=nan"], "hyper='gamma=nan' is not finite: write it as gamma=0.5"),
        (["gamma=inf"], "hyper='gamma=inf' is not finite"),
        (
            ["gamma=1", "delta=2", "gamma=1"],
            r"hyper=\['gamma=1', 'delta=2', 'gamma=1'\] names gamma twice: leave one out",
        ),
        (["gamma=wide"], "hyper='gamma=wide' is no number"),
        (["=1"], "is nothing that method='m_ovr' has"),
    ],
)
def test_hyper_parameters_of_ones_own_are_numbers_each_once(hyper, message):
    with pytest.raises(ValueError, match=message):
        ClassifyOptions(hyper=tuple(hyper)).own_hyper({"gamma": 2.0, "delta": 1.0})
    assert ClassifyOptions(hyper=("gamma=1",)).own_hyper({"gamma": 2.0, "delta": 1.0}) == {"gamma": 1.0, "delta": 1.0}


@dataclasses.dataclass(frozen=True)
class OwnOptions(Options):
    """As a user writes them, with a type that JSON does not have."""

    widths: "list[int] | unknown" = None


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (ClassifyOptions, {"margin": "0.5"}, "margin='0.5' is no float"),
        (ClassifyOptions, {"margin": None}, "margin=None is no float"),
        (ClassifyOptions, {"flip": 1}, "flip=1 is no bool"),
        (ClassifyOptions, {"cam_sign": True}, "cam_sign=True is no Literal"),
        (ClassifyOptions, {"hyper": "gamma=1"}, "hyper='gamma=1' is no tuple"),
        (ContrastOptions, {"hidden": 5.5}, "hidden=5.5 is no int"),
        (ContrastOptions, {"fill": {}}, "fill={} is no Literal"),
    ],
)
def test_values_of_a_file_are_of_their_fields_types(kind, value, message):
    with pytest.raises(ValueError, match=message):
        options_of(value, kind)
    assert options_of({"margin": np.float64(0.25), "cam_layers": [2]}, ClassifyOptions).margin == 0.25
    assert options_of({"widths": [3]}, OwnOptions).widths == (3,)
