"""The page of a run: its numbers are those of the files, what strangers write stays text, and a browser shows it."""

import csv
import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import BROWSER, Browser
from conftest import load_script
from PIL import Image

from osrjax.data import OpenSetData
from osrjax.data.source import Examples
from osrjax.evaluation import ScoredImages, assess_scores, order_images
from osrjax.files import FileError, write_json
from osrjax.report import leave_page, write_page
from osrjax.report.page import drawings, elements, run as run_module
from osrjax.report.titles import METRIC_TITLES
from osrjax.run.entries import write_entry

EVIL = "<script>alert(1)</script>"
ALSO = "</script><img src=x onerror=\"document.title='owned'\">$$x$$@y"
STEPS = 5


class Found(HTMLParser):
    """Elements with their attributes, tables as rows of (text, data-value), and the text of scripts."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.tables, self.scripts, self.text = [], [], [], ""
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            value, self._inside = dict(attributes).get("data-value"), True
            self.tables[-1][-1].append(["", None if value is None else float(value)])

    def handle_endtag(self, tag):
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.lasttag == "script":
            self.scripts.append(data)
            return
        self.text += data
        if self._inside:
            self.tables[-1][-1][-1][0] += data

    def column(self, number, name):
        """Row name to value of a column, in order."""
        head, *rows = self.tables[number]
        place = [text.strip() for text, _ in head].index(name)
        return {row[0][0]: row[place][1] for row in rows}


def scored_examples(rng):
    """Scores of three parts and the class split that they are of; classes have names that want to be markup."""

    def scored():
        sizes = (30, 40, 25)
        values = [rng.normal(size=n) + shift for n, shift in zip(sizes, (0, 0, 1.5), strict=True)]
        return ScoredImages(*values, *(rng.integers(0, 2, n) for n in sizes))

    def examples(n, labels):
        return Examples(rng.integers(0, 256, (n, 6, 6, 1)).astype(np.uint8), labels.astype(np.int32))

    known = rng.integers(0, 2, 40)
    parts = (examples(10, np.zeros(10)), examples(30, np.zeros(30)), examples(40, known))
    data = OpenSetData(
        *(*parts, examples(25, rng.choice([7, 9], 25))), (0, 1), (7, 9), (EVIL, "cat"), ("dog", ALSO), ()
    )
    return {"second": scored(), ALSO: scored()}, data


def run_directory(place, scored, data):
    """The files of a run, in which everything that can be a name is one that wants to be markup."""
    place.mkdir()
    scores = assess_scores(scored, data.test_known.labels, resamples=0)
    for values in scores.values():
        values["auroc"] |= {"low": 0.25, "high": 0.75}
    trained = {"scores": scores, "validation_accuracy": 0.5, "davies_bouldin": None}
    write_json(place / "results.json", {"trained": trained, "score": ALSO, "steps": 40, "table": "a table"})
    write_json(place / "config.json", {"method": EVIL, "data": ALSO, "reject_share": 0.1})
    sources = [{"name": EVIL, "provenance": ALSO, "complete": False}]
    names = {"known_names": [EVIL, "cat"], "unknown_names": ["dog", ALSO], "sources": sources}
    write_json(place / "provenance.json", {**names, "starts": [{"python": EVIL}]})
    lines = [{"step": 10 * i, "train/loss": 1 / i, "train/class_loss": 1 / i, ALSO: i} for i in (1, 2, 3, 4)]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 50, "tr')
    series = ("norm_known", "norm_unknown", "jnd", "auroc")
    probe = {name: np.linspace(0.1, 0.9, STEPS) for name in series} | {"steps": np.arange(STEPS)}
    np.savez(place / "probe.npz", **probe, davies_bouldin=np.array([np.inf, 2.0, 1.5, 1.2, 1.1]))
    (place / "figures").mkdir()
    (place / "figures" / "scores.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>")
    return place


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run's directory, its scored images and its data; its page is there."""
    scored, data = scored_examples(np.random.default_rng(8))
    place = run_directory(tmp_path_factory.mktemp("page") / "run<b>", scored, data)
    write_page(place, scored=scored, data=data)
    return place, scored, data


@pytest.fixture(scope="module")
def found(made):
    return Found((made[0] / "page.html").read_text())


def test_numbers_are_those_of_results_json_own_score_first(made, found):
    place, scored, _ = made
    results = json.loads((place / "results.json").read_text())["trained"]["scores"]
    assert list(found.column(0, "AUROC")) == [f"{ALSO} *", "second"]
    for column, metric in (("AUROC", "auroc"), ("OSCR", "oscr"), ("closed-set accuracy", "closed_set_accuracy")):
        values = found.column(0, column)
        assert [values[f"{ALSO} *"], values["second"]] == [results[n][metric]["value"] for n in (ALSO, "second")]
    assert "[0.250, 0.750]" in found.tables[0][1][2][0]
    for name, images in scored.items():
        threshold = results[name]["threshold"]
        assert found.column(1, "threshold")[name] == threshold
        for kind in ("validation", "known", "unknown"):  # counted one by one
            above = sum(score > threshold for score in getattr(images, kind))
            assert found.column(1, f"rejected, {kind}")[name] == pytest.approx(above / len(getattr(images, kind)))


def test_the_most_mistaken_images_with_scores_and_nearest_classes(made, found):
    _, scored, data = made
    images, names = scored[ALSO], data.known_names
    shown = [attributes["alt"] for tag, attributes in found.elements if tag == "img"]
    least_known = sorted(range(40), key=lambda i: -images.known[i])[: run_module.SHOWN]
    most_trusted = sorted(range(25), key=lambda i: images.unknown[i])[: run_module.SHOWN]
    unknown = {7: "dog", 9: ALSO}
    expected = [names[data.test_known.labels[i]] for i in least_known]
    assert shown == expected + [unknown[int(data.test_unknown.labels[i])] for i in most_trusted]
    first = least_known[0]
    assert f"nearest: {names[images.known_predictions[first]]}; score {images.known[first]:.3f}" in found.text


def test_what_strangers_write_stays_text(made, found):
    page = (made[0] / "page.html").read_text()
    scripts = [attributes for tag, attributes in found.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "drawings"}, {}, {}]
    assert len(re.findall("</script", page)) == 3
    assert [a for _, attributes in found.elements for a in attributes if a.startswith("on")] == []
    assert ALSO.replace("$$x$$@y", "") in json.dumps(json.loads(found.scripts[0])).replace('\\"', '"')
    assert found.text.count(EVIL) > 3  # class, method, source, version
    policy = next(attributes["content"] for _, attributes in found.elements if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert "unsafe-inline' " not in policy.partition("script-src")[2]


def test_a_page_refers_to_nothing_outside_and_is_small(made, found):
    page = made[0] / "page.html"
    assert page.stat().st_size < 3e6
    places = [a[name] for _, a in found.elements for name in ("src", "href") if name in a]
    assert {re.match("#|data:", place)[0] for place in places} == {"#", "data:"}


def test_every_figure_has_words_and_every_table_a_name(found):
    drawn = [attributes for _, attributes in found.elements if attributes.get("class") == "drawing"]
    items = json.loads(found.scripts[0])
    assert [item["target_id"] for item in items] == [attributes["id"] for attributes in drawn]
    assert len(drawn) == 3 + 2 + 1  # scores, ROC, OSCR; loss and another metric; dynamics
    assert all(attributes["aria-label"] and attributes["role"] == "img" for attributes in drawn)
    assert all(a["aria-label"] and a["tabindex"] == "0" for _, a in found.elements if a.get("class") == "wide")


def test_without_the_library_the_pictures_of_the_run_stand_in(made, monkeypatch, tmp_path):
    _, scored, data = made
    place = run_directory(tmp_path / "plain", scored, data)
    for module in (elements, run_module):
        monkeypatch.setattr(module, "has_drawings", lambda: False)
    (place / "attribution-x").mkdir()
    Image.new("RGB", (2000, 10)).save(place / "attribution-x" / "stages.png")
    found = Found(write_page(place, scored=scored, data=data).read_text())
    assert "pip install 'osrjax[page]'" in found.text
    pictures = [a["alt"] for _, a in found.elements if a.get("class") == "picture"]
    assert pictures == ["attribution-x/stages.png", "figures/scores.svg"]
    assert len([tag for tag, _ in found.elements if tag == "script"]) == 2
    assert found.column(0, "AUROC")["second"] is not None


def test_a_run_without_scores_and_images_keeps_its_numbers(made, tmp_path):
    place = run_directory(tmp_path / "bare", *made[1:])
    found = Found(write_page(place).read_text())
    assert len(json.loads(found.scripts[0])) == 3  # curves and dynamics
    assert found.column(0, "AUROC")["second"] is not None


@pytest.mark.parametrize(
    ("method", "own"), [("softmax", ""), ("focal:FOCAL", " --own-method focal:FOCAL")], ids=["ours", "one's own"]
)
def test_the_end_of_a_run_names_its_page_and_what_to_do_next(method, own, made, tmp_path, capsys):
    place = run_directory(tmp_path / "a run", *made[1:])
    write_json(place / "config.json", {"method": method})
    (place / "network.npz").touch()
    leave_page(place)
    page, following = capsys.readouterr().out.splitlines()
    assert page.startswith(f"page: {place / 'page.html'}")
    assert following == f"next: osrjax predict '{place}' image.png{own}; osrjax evaluate '{place}' --images{own}"


def test_links_are_not_followed_and_damage_costs_one_line(made, tmp_path, capsys):
    place = run_directory(tmp_path / "odd", *made[1:])
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (place / "picture.png").symlink_to(secret)
    with pytest.raises(FileError, match=r"picture\.png is a link"):
        write_page(place)
    assert not (place / "page.html").exists()
    (place / "picture.png").unlink()
    (place / "probe.npz").write_bytes(b"cut")
    leave_page(place)
    error = capsys.readouterr().err
    assert error.startswith("no page: ")
    assert "probe.npz cannot be read" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("provenance.json", '{"sources": [1]}'),
        ("results.json", "[]"),
        ("results.json", '{"score": "absent", "trained": {"scores": {}}}'),
        ("picture.png", "not a picture"),
    ],
)
def test_damaged_files_are_one_line(name, content, made, tmp_path):
    place = run_directory(tmp_path / "damaged", *made[1:])
    (place / name).write_text(content)
    with pytest.raises(FileError, match="cut or damaged"):
        write_page(place)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "runs"),
        ("{place}/absent", "is no directory"),
        ("{place}", "holds nothing that is finished: give"),
        ("{place}/begun", "holds nothing that is finished: finish its training first"),
    ],
)
def test_bad_input_is_one_line(line, message, tmp_path, capsys):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    assert load_script("report").main(line.format(place=tmp_path).split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def sweep_directory(place):
    """Two arms, one with a name that wants to be markup, on two splits; a lane has diverged."""
    place.mkdir()
    rows = [
        {"lane": lane, "arm": arm, "split": split, "seed": 0, "margin": margin, "score": "s", "diverged_at": ""}
        | {"closed_set_accuracy": 0.8 + 0.01 * lane, "auroc": "" if lane == 3 else 0.5 + 0.1 * lane, "command": EVIL}
        for lane, (arm, margin, split) in enumerate([(ALSO, 0.0, 0), (ALSO, 0.0, 1), ("b", 0.5, 0), ("b", 0.5, 1)])
    ]
    with (place / "results.csv").open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    estimate = {"mean": 0.25, "interval": [0.125, 0.375], "n": 2}
    arms = {ALSO: {"diverged": 0, "auroc": estimate}, "b": {"diverged": 1}}
    differences = {"b": {"auroc": estimate, "verdict": "holds"}}
    write_json(place / "results.json", {"arms": arms, "differences": differences})
    write_json(place / "config.json", {"preset": EVIL})
    history = [{"lane": lane, "step": step, "auroc": 0.1 * lane + step} for lane in range(4) for step in (0, 1)]
    (place / "history.csv").write_text(
        "lane,step,auroc\n" + "".join(f"{r['lane']},{r['step']},{r['auroc']}\n" for r in history)
    )
    return place


def test_a_sweep(tmp_path):
    found = Found(write_page(sweep_directory(tmp_path / "sweep")).read_text())
    assert found.column(0, "AUROC") == {ALSO: 0.25, "b": None}
    assert found.column(1, "AUROC") == {f"{ALSO} - b": 0.25}
    assert found.column(2, "AUROC") == {"0": 0.5, "1": 0.6, "2": 0.7, "3": None}
    dynamics = drawings.dynamics({"AUROC": {"a": (np.arange(2), np.arange(2.0))}})
    assert len(dynamics.children) == 1
    assert len(json.loads(found.scripts[0])) == 3


def test_a_comparison_with_its_runs(made, tmp_path):
    cells = tmp_path / "losses"
    cells.mkdir()
    run_directory(cells / "m-OvR-neal_0-0", *made[1:])
    write_page(cells / "m-OvR-neal_0-0")
    estimate = {"mean": -0.125, "interval": [None, None], "n": 1}
    numbers = {"neal": {"m-OvR / x": {"auroc": estimate}, "m-OvR - b": {"auroc": estimate}}}
    write_json(tmp_path / "losses.json", numbers)
    found = Found(write_page(cells).read_text())
    assert found.column(0, "AUROC") == {"m-OvR / x": -0.125}
    assert found.column(1, "AUROC") == {"m-OvR - b": -0.125}
    results = json.loads((cells / "m-OvR-neal_0-0" / "results.json").read_text())
    auroc = results["trained"]["scores"][ALSO]["auroc"]["value"]
    assert found.column(2, "AUROC") == {"m-OvR-neal_0-0": auroc}
    assert ("a", {"href": "m-OvR-neal_0-0/page.html"}) in found.elements


def test_a_benchmark(made, tmp_path):
    _, scored, data = made
    labels = {"known": data.test_known.labels, "unknown": (data.test_unknown.labels - 7) // 2}
    manifest = {"method": "m", "score": ALSO, "dataset": EVIL, "family": "f", "unknown": "u", "seed": 0, "seconds": {}}
    manifest |= {"known_names": [EVIL, "cat"], "unknown_names": ["dog", ALSO]}
    ordered = {name: order_images(images, labels, classes=2) for name, images in scored.items()}
    for label, split in ((ALSO, 0), (ALSO, 1), ("b", 0)):
        place = tmp_path / f"{len(label)}-{split}"
        place.mkdir()
        write_entry(place, {**manifest, "label": label, "split": split}, ordered)
    found = Found(write_page(tmp_path).read_text())
    results = assess_scores(scored, data.test_known.labels, resamples=0)[ALSO]
    assert found.column(0, "AUROC") == pytest.approx(dict.fromkeys((ALSO, "b"), results["auroc"]["value"]))
    assert len(found.tables[1]) == 1 + 3
    rejected = np.mean(scored[ALSO].unknown > results["threshold"])
    assert found.column(0, "rejected, unknown")["b"] == pytest.approx(rejected)


def test_claims(tmp_path):
    effect = {
        "claim": "a",
        "arm": EVIL,
        "effect": "JND",
        "mean": 0.5,
        "interval": [0.25, 0.75],
        "n": 5,
        "verdict": "holds",
    }
    names = ("norm_known", "norm_unknown", "jnd", "davies_bouldin", "auroc")
    curve = {name: [[0.5, 0, 1], [None, None, None]] for name in names}
    content = {
        "claims": {"a": {"text": "it grows", "verdict": "holds"}},
        "effects": [effect],
        "curves": {"columns": ["mean", "low", "high"], "arms": {EVIL: {"steps": [0, 9], **curve}}},
        "runs": [{"directory": "x/one", "finished": True}, {"finished": False}],
        "rule": EVIL,
        "accuracy_threshold": 0.85,
    }
    write_json(tmp_path / "claims.json", content)
    found = Found(write_page(tmp_path).read_text())
    assert [text for text, _ in found.tables[0][1]] == ["a", "it grows", "holds"]
    assert found.column(1, "mean") == {"a": 0.5}
    assert "1 of 2" in found.text


def test_a_curve_keeps_its_ends_and_its_area_when_it_is_thinned(rng):
    x, y = np.sort(rng.uniform(size=(2, 20_000)), axis=1)
    drawn = drawings.curves({"c": (x, y)}, x="x", y="y").renderers[0].data_source.data
    assert len(drawn["x"]) <= drawings.POINTS + 2
    assert (drawn["x"][0], drawn["y"][-1]) == (x[0], y[-1])
    assert set(drawn["x"]) <= set(x)
    areas = [sum(np.diff(a) * (np.array(b[1:]) + np.array(b[:-1])) / 2) for a, b in ((x, y), (drawn["x"], drawn["y"]))]
    assert areas[0] == pytest.approx(areas[1], abs=1e-3)


# ------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


needs_browser = pytest.mark.skipif(not BROWSER, reason="needs a browser: apt-get install chromium")
DRAWN = """[...document.querySelectorAll(".drawing")].map((place) =>
  place.firstElementChild !== null && place.firstElementChild.getBoundingClientRect().height > 100)"""

# Of every head of a table: does the last line of its button, which ends in the arrow, have two letters of its name?
LAST_LINES = """[...document.querySelectorAll("thead button")].map((button) => {
  const letters = document.createRange(), text = button.lastChild;
  letters.setStart(text, text.length - 2); letters.setEnd(text, text.length);
  const lines = button.getClientRects(), places = letters.getClientRects(), half = places[0].height / 2;
  return places.length === 1 && Math.abs(lines[lines.length - 1].bottom - places[0].bottom) < half; })"""


def opened(browser, page):
    """The page, with all of its figures drawn."""
    browser.complaints.clear()
    browser.requests.clear()
    milliseconds = browser.open(page)
    browser.ask("window.dispatchEvent(new Event('beforeprint'))")
    end = time.monotonic() + 60
    while not all(browser.ask(DRAWN)):
        assert time.monotonic() < end, browser.complaints
        time.sleep(0.1)
    return milliseconds


@needs_browser
def test_a_browser_draws_every_figure_without_a_complaint_or_a_request(browser, made):
    page = made[0] / "page.html"
    milliseconds = opened(browser, page)
    assert browser.ask(DRAWN) == [True] * 6
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert milliseconds < 10_000  # a second on a quiet machine
    for width in (1280, 600):  # nothing but tables is wider than the window
        browser.resize(width, 720)
        time.sleep(0.5)
        assert browser.ask("document.documentElement.scrollWidth") <= width
    browser.resize(1280, 720)


@needs_browser
def test_a_click_and_the_keyboard_sort_a_table(browser, tmp_path):
    page = write_page(sweep_directory(tmp_path / "sweep"))
    opened(browser, page)
    browser.ask("window.heads = [...document.querySelectorAll('table')[2].querySelectorAll('thead button')]")
    column = "[...document.querySelectorAll('table')[2].tBodies[0].rows].map((row) => row.cells[0].textContent)"
    place = browser.ask("heads.findIndex((head) => head.textContent === 'AUROC')")
    browser.ask(f"heads[{place}].click()")
    assert browser.ask(column) == ["0", "1", "2", "3"]
    assert browser.ask(f"heads[{place}].parentElement.ariaSort") == "ascending"
    browser.ask(f"heads[{place - 1}].focus()")
    browser.press("Tab")  # the order of focus is that of the columns
    browser.press("Enter", "\r")
    assert browser.ask(column) == ["2", "1", "0", "3"]  # the run without a value stays below
    assert browser.ask("document.querySelector('details').open") is False
    browser.ask("document.querySelector('summary').focus()")
    browser.press("Enter", "\r")
    assert browser.ask("document.querySelector('details').open") is True
    assert browser.complaints == []


@needs_browser
def test_no_arrow_of_a_head_stands_alone(browser, tmp_path):
    metric = dict.fromkeys(METRIC_TITLES.values(), 0.5)
    page = tmp_path / "page.html"
    sections = [elements.Section("s", [elements.table([metric], "c")])]
    page.write_text(elements.render(elements.Page("t", "a table", {}, sections)))
    opened(browser, page)
    for width in (1200, 700, 400):
        browser.resize(width, 720)
        assert browser.ask(LAST_LINES) == [True] * len(metric), width
    browser.resize(1280, 720)


@needs_browser
def test_a_name_under_the_pointer_stays_text(browser, tmp_path):
    """One point in the middle of its axes, with a name that wants to be markup."""
    group = {ALSO: [{"accuracy": 0.5, "AUROC": 0.5, EVIL: ALSO}]}
    drawing = elements.Drawing("a point", lambda: drawings.points(group, x="accuracy", y="AUROC"))
    page = tmp_path / "page.html"
    page.write_text(elements.render(elements.Page("one", "a test", {}, [elements.Section("it", [drawing])])))
    opened(browser, page)
    place = browser.ask("""(() => {
      const view = [...Bokeh.index][0];
      const box = view.el.getBoundingClientRect(), frame = view.frame.bbox;
      return [box.left + (frame.left + frame.right) / 2, box.top + (frame.top + frame.bottom) / 2];
    })()""")
    browser.move(place[0] + 40, place[1] + 40)
    browser.move(*place)
    end, words = time.monotonic() + 20, ""
    while "onerror" not in words:
        assert time.monotonic() < end, words
        time.sleep(0.1)
        words = browser.ask("""(() => {
          const text = (root) => [...root.querySelectorAll("*")].map((e) => (e.shadowRoot ? text(e.shadowRoot) : "")
            + (e.className.includes?.("tooltip") ? e.textContent : "")).join(" ");
          return text(document);
        })()""")
    assert browser.ask("document.title") == "one"
    assert browser.complaints == []
