import dataclasses
import functools
import json
import math
import sys

import jax
import jax.numpy as jnp
import pytest
from conftest import EXPERIMENTS, load_script

from osrjax.analysis import costs
from osrjax.analysis.costs import CHIPS, Chip, Collective, StepCost
from osrjax.analysis.norms import make_norm_plan
from osrjax.data import resolve_data
from osrjax.devices import sharding
from osrjax.losses import contrastive
from osrjax.models.backbones import NETWORKS


@pytest.fixture(scope="module")
def beside():
    """A benchmark imports what lies beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXPERIMENTS / "benchmarks"))
        yield


@pytest.fixture(scope="module")
def script(beside):
    return load_script("benchmarks/costs")


@pytest.fixture(scope="module")
def steps(script):
    return sys.modules["compiled_steps"]


# Reading a compiled program.

HLO = """
  %a = (f32[3,3,3,16]{3,2,1,0:T(8,128)S(1)}, f32[16]{0}, f32[5,4]{1,0}) all-reduce(%x), replica_groups={{0,1,2,3}}
  ROOT %b = (f32[16]{0:T(128)}, f32[16]{0:T(128)}, /*index=5*/f32[]{:T(128)}) all-reduce(%y, %z, %w), channel_id=2
  %c = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(f32[2,8]{1,0} %z), dimensions={0}
  %d = f32[8,8]{1,0} all-gather-done(%c)
  %i = ((f32[2,8]{1,0}, f32[4,8]{1,0}), (f32[16,8]{1,0}, f32[32,8]{1,0})) all-gather-start(%z, %y), dimensions={0}
  %e = (u8[6]{0}, u8[6]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%p)
  %f = bf16[4,8]{1,0} all-to-all(%q), metadata={op_name="jit(step)/reduce"}
  %g = pred[5]{0} all-gather(%all-reduce.3)
  %j = (f32[2,16]{1,0}, f32[1,1,1,16]{3,2,1,0}) all-reduce(%u, %v)
  %k = (f32[3,3,8]{2,1,0}, f32[2,16]{1,0}) all-reduce(%s, %t)
  %h = f32[7]{0} fusion(%all-reduce.1), calls=%all-reduce_fusion
"""


def test_collectives_of_a_text():
    found = costs.collectives(HLO, parameters=[(3, 3, 3, 16), (16,), (3, 3, 1, 8)])
    assert found == [
        Collective("all-reduce", gradients=4 * (432 + 16), rows=4 * 20),
        Collective("all-reduce", statistics=4 * 33),
        Collective("all-gather", rows=4 * 64),
        Collective("all-gather", rows=4 * (128 + 256)),
        Collective("collective-permute", rows=6),
        Collective("all-to-all", rows=2 * 32),
        Collective("all-gather", rows=5),
        Collective("all-reduce", statistics=4 * 48),
        Collective("all-reduce", gradients=4 * (72 + 32)),
    ]
    assert [one.purpose for one in found] == ["gradients", "statistics", *5 * ["rows"], "statistics", "gradients"]
    assert costs.collectives("%h = f32[7]{0} add(%a, %b)", ()) == []


def ring_traffic(kind, size, devices):
    """What a device sends if parts of equal size go round, counted step by step."""
    part, steps = size / devices, devices - 1
    if kind == "reduce-scatter":  # gives one part
        return size * steps
    return part * (2 * steps if kind == "all-reduce" else steps)


@pytest.mark.parametrize("devices", [1, 2, 8, 256])
@pytest.mark.parametrize("kind", ["all-reduce", "all-gather", "reduce-scatter", "all-to-all"])
def test_bytes_around_a_ring(kind, devices):
    sent = Collective(kind, rows=4096).sent(devices)
    assert sent == pytest.approx(ring_traffic(kind, 4096, devices))
    assert Collective("collective-permute", rows=4096).sent(devices) == (4096 if devices > 1 else 0)


def test_latency_is_the_way_there_and_back():
    chip = CHIPS["v5e"]._replace(hop=1.0)
    ways = {1: 0, 2: 1, 8: 1 + 2, 64: 4 + 4, 256: 8 + 8}  # sides 2, 2x4, 8x8, 16x16; no further than half of each
    assert {devices: chip.latency(devices) for devices in ways} == {n: 2 * way for n, way in ways.items()}
    assert CHIPS["v5p"]._replace(hop=1.0).latency(256) == 2 * (2 + 4 + 4)  # 4x8x8
    assert CHIPS["h100"]._replace(hop=1.0).latency(8) == 2 * 3


CHIP = Chip(flops=100.0, memory=10.0, link=5.0, island=4, far_link=1.0, hop=0.5, axes=0, highest_flops=25.0)
GRADIENTS = Collective("all-reduce", gradients=400)


def step(devices, batch, *found):
    return StepCost(devices, batch, 50.0 * batch, 2.0 * batch, 0, found)


def test_times_of_a_step():
    one = step(4, 8, GRADIENTS, GRADIENTS)
    assert one.arithmetic_seconds(CHIP) == 4.0  # 400 operations; 16 bytes take 1.6 s
    assert dataclasses.replace(one, accessed=90.0).arithmetic_seconds(CHIP) == 9.0
    # Each: there and back over two doublings, and 1.5 times 400 bytes.
    assert one.communication_seconds(CHIP) == 2 * (2 * 2 * 0.5 + 600 / 5)
    assert dataclasses.replace(one, devices=8).communication_seconds(CHIP) == 2 * (2 * 3 * 0.5 + 700)
    assert step(1, 8).communication_seconds(CHIP) == 0


def test_hours_of_all_calls(script):
    tables = sys.modules["cost_tables"]
    call = tables.Call("norms:x", "8 x 4", 3600, True, step(4, 8))
    assert tables.hours_of(call, CHIP) == 16.0  # 400 operations of exact products at 25 a second
    assert tables.hours_of(call._replace(exact=False), CHIP) == 4.0
    assert CHIPS["v5e"].flops == pytest.approx(6 * CHIPS["v5e"].highest_flops)  # six products of bfloat16
    (line,) = [line for line in tables.hours_table([call], {"here": CHIP}).splitlines() if "norms:x" in line]
    assert line.split()[1:] == ["4", "16", "16", "64"]
    memory_bound = call._replace(cost=dataclasses.replace(call.cost, accessed=320.0))
    (line,) = [line for line in tables.hours_table([memory_bound], {"here": CHIP}).splitlines() if "norms:x" in line]
    assert line.split()[1:] == ["4", "32", "16", "128"]


def test_break_even_batch():
    pair = [step(4, 2, GRADIENTS), step(4, 10, GRADIENTS)]
    found = costs.break_even_batch(pair, CHIP)
    assert found == pytest.approx((2 + 600 / 5) / 0.5)  # half a second an image
    assert costs.break_even_batch(pair[::-1], CHIP, share=0.1) == pytest.approx(10 * found)
    assert costs.break_even_batch([step(4, 2), step(4, 10)], CHIP) == 1.0  # nothing to hide
    rows = [step(4, batch, Collective("all-gather", rows=40 * batch)) for batch in (2, 10)]
    assert costs.break_even_batch(rows, CHIP) is None  # grows faster than the arithmetic
    for wrong in (pair[:1], [pair[0]] * 2, [pair[0], step(8, 10)]):
        with pytest.raises(ValueError, match="two batches on equally many devices"):
            costs.break_even_batch(wrong, CHIP)


# Compiled programs.


def taps_inside(size, stride):
    """Pairs of an output and a tap of a 3-tap convolution, padded by 1, that meet an input, along one axis."""
    return sum(0 <= stride * out + tap - 1 < size for out in range(size // stride) for tap in range(3))


def wrn_operations():
    """WRN-16-4 as its paper's table lists it: two operations for each product with a pixel inside the image."""
    products, channels, size = taps_inside(32, 1) ** 2 * 3 * 16, 16, 32
    for width in (64, 128, 256):
        for block in range(2):
            stride = 2 if width > 64 and block == 0 else 1
            products += taps_inside(size, stride) ** 2 * channels * width
            shortcut = channels * width * (size // stride) ** 2 if channels != width else 0
            size //= stride
            products += taps_inside(size, 1) ** 2 * width * width + shortcut
            channels = width
    return 2 * products


def test_operations_of_a_forward_pass_by_hand():
    network = NETWORKS["wrn16_4"]()
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), images)
    forward = jax.jit(functools.partial(network.apply, train=False))
    found = costs.step_cost(forward.lower(variables, images).compile(), devices=1, batch=1)
    assert 1.0 <= found.flops / wrn_operations() < 1.01  # the rest is element-wise
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))
    assert found.peak > 4 * weights
    assert found.accessed > 4 * weights
    assert found.collectives == ()


def compiled(steps, program, devices, batch):
    """Costs of a step; shapes of the parameters that it trains, and those of batch norm alone."""
    lowered = steps.lowered_step(program, devices, batch, "cpu")
    state, *_ = lowered.in_avals[0]
    leaves = jax.tree.leaves_with_path(state.params)
    norms = [leaf.shape for path, leaf in leaves if any("BatchNorm" in str(key) for key in path)]
    idle = "rotation" if program.rotations == "none" else None
    shapes = [leaf.shape for path, leaf in leaves if idle not in [key.key for key in path]]
    return costs.step_cost(lowered.compile(), devices=devices, batch=batch, parameters=shapes), shapes, norms


def numbers(shapes):
    return sum(math.prod(shape) for shape in shapes)


def test_a_classifier_on_many_devices_exchanges_gradients_and_statistics_alone(steps):
    program = steps.Program("train", "small_cnn", (12, 12, 3), 3, 8)
    (alone, *_), (four, shapes, norms), (large, *_) = (
        compiled(steps, program, *size) for size in ((1, 8), (4, 2), (4, 6))
    )
    assert alone.collectives == ()
    for found in (four, large):
        assert {one.kind for one in found.collectives} == {"all-reduce"}
        gradients, *more = [one for one in found.collectives if one.gradients]
        assert not more  # one for all
        # Those of batch norm's scales are sums that its backward pass makes anyway.
        assert 4 * (numbers(shapes) - numbers(norms)) <= gradients.gradients <= 4 * numbers(shapes) + 40
        assert sum(one.statistics for one in found.collectives) <= 4 * 4 * numbers(norms)
        assert sum(one.rows for one in found.collectives) == 0
    assert four.collectives == large.collectives  # whatever the batch
    # Operations of a device are a line in its images, the same on any number of devices.
    slope = (large.flops - four.flops) / 4
    assert alone.flops == pytest.approx(four.flops + slope * (8 - 2), rel=2e-2)


@pytest.mark.parametrize("kind", ["train", "contrastive"])
def test_copies_and_views_stay_on_their_devices(steps, kind):
    """No image goes to another device; of contrastive training projections do."""
    program = steps.Program(kind, "small_cnn", (12, 12, 3), 3, 8, "all")
    found, shapes, _ = compiled(steps, program, 4, 4)
    rows = [one for one in found.collectives if one.rows]
    if kind == "train":
        assert not rows
    else:
        assert {one.kind for one in rows} <= {"all-gather", "all-reduce"}
        projections = 4 * 2 * 4 * 4 * 128  # of two views of four images on four devices
        assert {one.rows for one in rows if one.kind == "all-gather"} == {projections, projections // 128}
    (gradients,) = [one.gradients for one in found.collectives if one.gradients]  # one for all passes
    matrices = numbers(shape for shape in shapes if len(shape) > 1)
    assert 4 * matrices <= gradients <= 4 * numbers(shapes) + 40


# Norms and lanes.


class Uncached:
    """Compiles every time; what it compiled last is kept."""

    def cost_of(self, lowered, *, devices, batch, platform):
        assert platform == "cpu"
        self.compiled = lowered.compile()
        return costs.step_cost(self.compiled, devices=devices, batch=batch)


@pytest.fixture(scope="module")
def analysis(script):
    return sys.modules["compiled_analysis"]


def test_exact_norms_of_wrn_by_hand(analysis):
    """A cotangent pass has the products of a forward pass: 256 outputs, and one linearisation."""
    norms = analysis.Norms(NETWORKS["wrn16_4"], (32, 32, 3), images=1)
    passes = analysis.passes_of(norms)
    assert passes == 256
    counted = Uncached().cost_of(analysis.lowered_norms(norms, 8, 1, "cpu"), devices=1, batch=1, platform="cpu")
    assert counted.flops < 10 * wrn_operations()  # its loop once
    found = analysis.with_all_passes(counted, passes, 8)
    assert 1.0 <= found.flops / (257 * wrn_operations()) < 1.03


def test_a_loop_counts_as_often_as_it_runs(analysis):
    norms = analysis.SMOKE["norms:smoke"]
    passes = analysis.passes_of(norms)
    assert passes == 8  # outputs; 64 inputs
    assert analysis.passes_of(analysis.SMOKE["estimate:smoke"]) == 8
    found = {}
    for chunk in (8, 3, 2):  # no loop; two rounds and a rest of two; four rounds
        cost = Uncached().cost_of(analysis.lowered_norms(norms, chunk, 1, "cpu"), devices=1, batch=2, platform="cpu")
        found[chunk] = analysis.with_all_passes(cost, passes, chunk)
    assert found[3].flops == pytest.approx(found[8].flops, rel=0.1)
    assert found[2].flops == pytest.approx(found[8].flops, rel=0.1)


@pytest.mark.parametrize("kind", ["norms", "estimate"])
def test_norms_say_nothing_to_other_chips(analysis, kind):
    norms = analysis.SMOKE[f"{kind}:smoke"]
    cache = Uncached()
    alone, four = (
        cache.cost_of(analysis.lowered_norms(norms, 2, n, "cpu"), devices=n, batch=2, platform="cpu") for n in (1, 4)
    )
    assert four.collectives == ()
    assert four.flops == pytest.approx(alone.flops, rel=0.01)
    if kind == "norms":  # the program that norms.py runs
        function, variables = analysis.embedding_of(norms)
        plan = make_norm_plan(
            function, variables, norms.image_shape, batch_size=8, chunk_size=2, mesh=sharding.data_mesh(4)
        )
        assert plan.norms.cost_analysis()["flops"] == pytest.approx(four.flops, rel=0.01)
        assert plan.memory == pytest.approx(four.peak, rel=0.01)


def test_lanes_say_nothing_to_other_chips(analysis, steps):
    sweep = analysis.SMOKE["sweep:smoke"]
    cache = Uncached()
    two, one = (analysis.sweep_call("sweep:smoke", sweep, n, cache, "cpu").cost for n in (2, 4))
    assert two.collectives == one.collectives == ()
    single, *_ = compiled(steps, sweep.program, 1, sweep.program.batch_size)
    assert one.flops == pytest.approx(single.flops, rel=0.05)  # a lane is a run
    assert two.flops == pytest.approx(2 * single.flops, rel=0.05)


def test_fewer_passes_at_a_time_where_memory_is_short(analysis):
    class Counted:
        def cost_of(self, lowered, *, devices, batch, platform):
            seen.append(lowered)
            return StepCost(devices, batch, 90.0, 9.0, 1000 >> len(seen), collectives)

    seen, collectives = [], ()
    norms = analysis.SMOKE["norms:smoke"]
    first, second = analysis.calls_of("norms:smoke", norms, (1, 2), Counted(), "cpu", 300)
    assert len(seen) == 2
    assert (first.at_a_time, first.count, second.count) == ("2 x 3", 20 * 5000, 20 * 2500)  # 0.8 * 8 * 300 / 500
    assert first.cost.flops == 90.0 * 9 / 6  # eight passes and the linearisation; 3 + 2 of them counted
    assert [one.cost.devices for one in (first, second)] == [1, 2]
    collectives = (GRADIENTS,)
    with pytest.raises(RuntimeError, match="norms:smoke communicates on cpu"):
        analysis.calls_of("norms:smoke", norms, (1, 2), Counted(), "cpu", 300)


def test_a_program_that_does_not_fit_is_refused_once(analysis, steps, tmp_path, capsys):
    """The compiler of TPUs says how much it would take; so many fewer passes are tried, and lanes are left out."""
    words = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required (40.25G) exceeds available (15.75G)"
    )

    class Lowered:
        def as_text(self):
            return "program"

        def compile(self):
            compiled.append(self)
            raise jax.errors.JaxRuntimeError(words)

    compiled = []
    for _ in range(2):
        with pytest.raises(steps.OutOfMemoryError, match=r"takes 40\.2 GiB on each") as refused:
            steps.Cache(tmp_path / "cache.json").cost_of(Lowered(), devices=1, batch=1, platform="v5e")
        assert refused.value.needed == 40.25 * 2**30
    assert len(compiled) == 1
    assert steps.needed_bytes("no size") == math.inf

    class Small:
        def cost_of(self, lowered, *, devices, batch, platform):
            seen.append(devices)
            if len(seen) < 2:
                raise steps.OutOfMemoryError(600)
            return StepCost(devices, batch, 90.0, 9.0, 200, ())

    seen = []
    (call,) = analysis.calls_of("norms:smoke", analysis.SMOKE["norms:smoke"], (1,), Small(), "cpu", 300)
    assert call.at_a_time == "2 x 3"  # 0.8 * 8 * 300 / 600
    seen.clear()
    (call,) = analysis.calls_of("sweep:smoke", analysis.SMOKE["sweep:smoke"], (1, 2), Small(), "cpu", 300)
    assert call.cost.devices == 2
    assert "sweep:smoke is left out on 1 chips: it takes" in capsys.readouterr().err


def test_each_device_compares_its_own_anchors():
    """A quarter of the matrices of similarities on each of four devices, where rows are spread as images are."""

    def losses(devices):
        mesh = sharding.data_mesh(devices)

        def function(rows, labels):  # rows as a network gives them, both views of an image side by side
            views = rows.reshape(-1, 2, 16).swapaxes(0, 1)
            supcon = contrastive.supcon_loss(views, labels).mean()
            return supcon + contrastive.nt_xent_loss(views).mean() + contrastive.nt_xent_gradient(views).max()

        where = sharding.batch_sharding(mesh)
        rows = jax.ShapeDtypeStruct((128, 16), jnp.float32, sharding=where)
        labels = jax.ShapeDtypeStruct((64,), jnp.int32, sharding=where)
        compiled = jax.jit(jax.grad(function)).lower(rows, labels).compile()
        return costs.step_cost(compiled, devices=devices, batch=64 // devices)

    alone, spread = losses(1), losses(4)
    assert 1.0 <= 4 * spread.flops / alone.flops < 1.5  # 4 if each had all
    assert spread.peak < 0.5 * alone.peak
    assert max(one.size for one in spread.collectives) <= 4 * 128 * 16 * 3  # projections and their gradients


# The script.

SHAPES = {"fashion_mnist_small": (28, 28, 1), "cifar10": (32, 32, 3), "tiny_imagenet": (64, 64, 3)}


def test_presets_are_those_of_the_scripts(script):
    networks = {"wrn16-4": "wrn16_4", "r18": "resnet18", "resnet18": "resnet18", "classifier32": "classifier32"}
    scripts = {"train": load_script("train"), "contrastive": load_script("contrastive")}
    for name, program in script.PRESETS.items():
        which, preset = name.split(":")
        ending = next((ending for ending in networks if preset.endswith(f"-{ending}")), "")
        config = scripts[which].PRESETS["paper" if ending else preset]
        if ending:
            data = preset.removesuffix(f"-{ending}").replace("-", "_")
            config = dataclasses.replace(config, data=data, network=networks[ending])
        config = resolve_data(config)
        assert program.script == which
        for field in ("network", "batch_size"):
            assert getattr(program, field) == getattr(config, field)
        assert program.image_shape == SHAPES[config.data]
        assert config.dtype == "float32"
        assert config.flip
        if which == "train":
            assert (program.rotations, program.crop_padding) == (config.rotations, config.crop_padding)
            assert (config.method, config.mixing) == ("m_ovr", "none")
        else:
            assert (config.method, config.mixing) == ("contrast", "gradmix")
            assert (config.hidden, config.features, config.policy) == (512, 128, "none")
            assert (config.jitter, config.crop, config.cam_layers, config.block_size) == (1.0, True, (), None)


def test_smoke_of_norms_and_lanes(script, tmp_path, capsys):
    options = ["--cache", str(tmp_path / "cache.json"), "--json", str(tmp_path / "costs.json")]
    assert script.main(["--smoke", "--presets", "norms", "estimate", "sweep:smoke", *options]) == 0
    printed = capsys.readouterr().out
    made = json.loads((tmp_path / "costs.json").read_text())
    assert made["steps"] == []
    calls = {(call["preset"], call["chips"]): call for call in made["calls"]}
    assert sorted(calls) == [(f"{kind}:smoke", chips) for kind in ("estimate", "norms", "sweep") for chips in (1, 2)]
    assert {call["collectives"] for call in calls.values()} == {0}
    assert calls["sweep:smoke", 1]["flops"] == pytest.approx(2 * calls["sweep:smoke", 2]["flops"], rel=0.05)
    assert calls["norms:smoke", 1]["hours"]["v5e"] == pytest.approx(2 * calls["norms:smoke", 2]["hours"]["v5e"])
    assert printed.count("sweep:smoke") == 2 * 2


def test_smoke_run_and_its_cache(script, tmp_path, capsys):
    options = ["--smoke", "--cache", str(tmp_path / "cache.json"), "--json", str(tmp_path / "new" / "costs.json")]
    assert script.main(options) == 0
    printed = capsys.readouterr()
    made = json.loads((tmp_path / "new" / "costs.json").read_text())
    assert [(step["chips"], step["images_per_chip"], step["scaling"]) for step in made["steps"]] == [
        (1, 8, "both"),
        (2, 8, "weak"),
        (2, 4, "strong"),
    ]
    assert made["steps"][0]["collectives"]["gradients"] == {"count": 0, "sent_mb": 0}
    gradients = made["steps"][1]["collectives"]["gradients"]
    assert gradients["sent_mb"] == made["steps"][2]["collectives"]["gradients"]["sent_mb"] > 0
    assert printed.out.count("train:smoke") == 3 + 3 * 2  # costs; times on three chips
    times = made["steps"][1]["times"]["v5e"]
    assert set(made["chips"]) == {"v5e", "v5p", "h100"}

    def unused(*args):
        raise AssertionError("compiled again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "step_cost", unused)
        assert script.main([*options, "--times", "v5e", "--link", "1e6"]) == 0
    again = json.loads((tmp_path / "new" / "costs.json").read_text())
    assert set(again["chips"]) == {"v5e"}
    assert again["steps"][1]["flops"] == made["steps"][1]["flops"]
    slower = again["steps"][1]["times"]["v5e"]
    assert slower["arithmetic_seconds"] == times["arithmetic_seconds"]
    assert slower["communication_seconds"] > 10 * times["communication_seconds"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--presets train:nothing", "presets='train:nothing' does not exist"),
        ("--presets norms:nothing", "presets='norms:nothing' does not exist"),
        ("--memory-gib 0", "memory_gib=0.0 must be above 0"),
        ("--chips 0", "chips=0 is below 1"),
        ("--link -1", "link=-1.0 must be above 0"),
        ("--platform v5e --chips 3", "chips=3 is no slice of v5e"),
        ("--presets train:bundled --chips 999", "chips=999 but this process has"),
        ("--smoke --cache {path}/file/cache.json", "cannot be used"),
        ("--smoke --presets train:bundled", "presets='train:bundled' does not exist: choose from train:smoke"),
        ("--smoke --json {path}/file/costs.json", "cannot be written"),
    ],
)
def test_bad_input_ends_in_one_line(script, options, message, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert script.main(options.format(path=tmp_path).split()) == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.startswith("costs.py: ")
    assert line.count("\n") == 1
