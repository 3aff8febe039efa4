import dataclasses
import json
import os
import shutil
import threading

import pytest
from torch import nn

import initio
from families import mlp
from initio.api.contrast import compare_models
from initio.api.live import Live
from initio.api.targets import Target
from initio.cli import serving
from initio.examples.split_transform_merge import Model
from initio.render.html import contrasted, embedded, page, report_of
from render.pages import DATA, HOSTILE, Network

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium was found: apt-get install chromium, or set CHROMIUM", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def text():
    return initio.check(Network, "8x16", target="network").to_html()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page; a message on the console, an error or a request beside the file itself fails the test."""
    said, contexts = [], []

    def open_page(text, **options):
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        contexts.append(browser.new_context(**options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append("dialog") or dialog.dismiss())
        tab.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-ready]")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def names(tab):
    return tab.locator("#table .body .row > :first-child").all_inner_texts()


def test_the_table_sorts_searches_and_folds(show, text):
    tab = show(text)
    assert any("0 … 3 × 4" in name for name in names(tab))
    tab.click("text=Unfold all")
    assert len(names(tab)) == 1 + 1 + 1 + 4 * 4 + 1  # model, blocks, their fold, 4 blocks of 3 modules, head
    tab.click("#fold")
    assert len(names(tab)) == 3
    tab.click("#table >> text=parameters")
    assert names(tab)[:2] == ["(model)", "blocks"]
    assert tab.locator("[aria-sort=descending]").inner_text().startswith("parameters")
    tab.click("#table >> text=parameters")
    assert tab.locator("[aria-sort=ascending]").count() == 1
    assert names(tab)[-1] == "(model)"
    tab.click("#table >> text=parameters")
    assert tab.locator("[aria-sort=none]").count() == 9
    tab.fill("#search", "relu")
    playwright.expect(tab.locator("#table .body .row")).to_have_count(4)
    assert names(tab) == [f"blocks.{i}.act" for i in range(4)]
    assert "4 rows" in tab.inner_text("#rows")


def test_selecting_in_one_selects_in_all(show, text):
    tab = show(text)
    tab.click("#diagram rect[data-box='2']")  # blocks.0.act
    assert "blocks.0.act" in tab.inner_text("#selection")
    assert tab.locator("#table .row.on").inner_text().split()[0] == "act"
    assert "blocks.0.act" in tab.inner_text("#signal .tip")
    assert "blocks.0.act" in tab.inner_text("#gradient .tip")
    assert tab.locator(".fork.on").count() == 1
    tab.focus("#signal")
    tab.keyboard.press("ArrowRight")
    assert "blocks.0.second" in tab.inner_text("#selection")
    assert tab.locator("#diagram .box.on").get_attribute("data-box") == "3"
    tab.locator(".fork").nth(1).click()
    assert tab.locator("#diagram .box.on").count() == 3  # the modules of the second block
    tab.focus("#table")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    assert "blocks.1.first" in tab.inner_text("#selection")
    tab.click("#selection button")
    assert tab.locator(".on").count() == 0
    tab.locator("#signal .u-over").click(position={"x": 2, "y": 20})
    assert "blocks.0.first" in tab.inner_text("#selection")


def test_theme_follows_the_system_and_the_reader(show, text):
    tab = show(text, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = tab.evaluate(background)
    assert tab.get_attribute("html", "data-theme") == "dark"
    tab.click("#theme")
    assert tab.get_attribute("html", "data-theme") == "light"
    assert tab.evaluate(background) != dark
    tab.click("#theme")
    assert tab.get_attribute("html", "data-theme") == "dark"


def test_a_phone_does_not_scroll_sideways(show, text):
    tab = show(text, viewport={"width": 375, "height": 700})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    paper = show(text, viewport={"width": 718, "height": 1000})  # A4 less its margins
    paper.emulate_media(media="print")
    assert paper.evaluate("document.documentElement.scrollWidth") <= 718


def unfit(tab):
    """What axe-core calls serious or critical, and where."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-core is not installed: pip install axe-playwright-python"
    )
    found = axe.Axe().run(tab).response
    assert len(found["passes"]) > 10
    return [(each["id"], each["nodes"][0]["html"]) for each in found["violations"] if each["impact"] in ("serious", "critical")]


SCREENS = [(scheme, {"width": width, "height": 800}) for scheme in ("light", "dark") for width in (1280, 390)]


@pytest.mark.parametrize(("scheme", "viewport"), SCREENS)
def test_pages_are_accessible(show, scheme, viewport):
    found = initio.check(lambda: Model(paths=2), "4x256x14x14", target="example")
    tab = show(page(found, derivation=initio.derive(Network, "4x16", what="signal")), color_scheme=scheme, viewport=viewport)
    assert unfit(tab) == []
    for summary in tab.locator("summary").all():
        summary.click()
    tab.locator("#finding-list .link").first.click()
    tab.click("#unfold")
    tab.fill("#search", "conv")
    assert unfit(tab) == []
    both = show(contrasted(compare_models(Network, lambda: Network(depth=2), "8x16")), color_scheme=scheme, viewport=viewport)
    assert unfit(both) == []
    swept = initio.sweep(mlp, {"depth": (2, 5), "gain": (0.5, 1.0)}, (4, 32), workers=0, findings=False)
    assert unfit(show(swept.to_html(), color_scheme=scheme, viewport=viewport)) == []


def test_axe_sees_a_fault(show, text):
    tab = show(text)
    tab.evaluate("document.getElementById('search').removeAttribute('aria-label'); document.getElementById('search').placeholder = ''")
    assert [code for code, _ in unfit(tab)] == ["label"]


@pytest.mark.parametrize("name", [HOSTILE, "n" * 10_000])
def test_hostile_names_are_text(show, name):
    tab = show(page(report_of(initio.analyze(lambda: Network(name, depth=1), "8x16"), name)))
    assert tab.locator("img").count() == 0
    tab.click("#table .body .row >> nth=-1")
    shown = tab.inner_text("#selection b")
    assert shown == name
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280


def test_findings_explain_themselves(show):
    tab = show(initio.check(lambda: Model(paths=2), "4x256x14x14", target="example").to_html())
    assert "REG101" in tab.inner_text("#findings")
    tab.locator("details summary").first.click()
    playwright.expect(tab.locator("details").first).to_contain_text("Why is this bad")


def test_ten_thousand_modules_draw_only_what_is_in_sight(show, text):
    data = json.loads(DATA.search(text)[1])
    modules = data["modules"]
    at = modules["path"].index("head")
    for number in range(10_000):
        for column, values in modules.items():
            values.append(f"more.{number}" if column == "path" else number + 1.0 if column == "rms" else values[at])
    tab = show(DATA.sub(lambda _: f'<script type="application/json" id="data">{embedded(data)}</script>', text))
    tab.click("#table >> text=/^rms$/")
    assert names(tab)[0] == "more.9999"
    assert tab.locator("#table .body .row").count() < 100
    tab.locator("#table").evaluate("table => { table.scrollTop = table.scrollHeight; }")
    playwright.expect(tab.locator("#table .body .row", has_text="more.0")).to_have_count(1)
    assert tab.locator("#table .body .row").count() < 100


def test_maps_of_a_sweep(show):
    found = initio.sweep(mlp, {"depth": (2, 5), "gain": (0.5, 1.0), "act": ("tanh", "relu")}, (4, 32), workers=0, findings=False)
    tab = show(dataclasses.replace(found, target=HOSTILE).to_html())
    assert tab.locator("rect.cell").count() == 4
    assert HOSTILE in tab.locator("h1").inner_text()
    tab.locator("rect.cell").first.focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#told").inner_text().startswith("depth = 5, gain = 0.5, act = tanh")
    tab.keyboard.press("ArrowUp")
    assert tab.locator("#told").inner_text().startswith("depth = 5, gain = 1, act = tanh")
    before = tab.locator("rect.cell").nth(3).get_attribute("fill")
    tab.get_by_label("act", exact=True).select_option("relu")
    tab.locator("rect.cell").nth(3).hover()
    assert "act = relu" in tab.locator("#told").inner_text()
    tab.get_by_label("Quantity", exact=True).select_option("layers")
    assert tab.locator("rect.cell").nth(3).get_attribute("fill") != before
    tab.get_by_label("Across", exact=True).select_option("2")
    assert tab.locator("svg").get_attribute("aria-label").endswith("over act and gain")


def test_two_models_on_one_page(show):
    names = (HOSTILE, "b")
    contrast = compare_models(lambda: Network(HOSTILE), lambda: Network(depth=2), "8x16", names=names)
    tab = show(contrasted(contrast))
    assert tab.locator("img").count() == 0
    assert tab.locator("#signal canvas").count() == tab.locator("#gradient canvas").count() == 1
    row = tab.locator(".figures tr", has_text="parameters").locator("td")
    assert row.all_inner_texts() == ["2,244", "1,156", "0.5152"]
    tab.focus("#signal")
    tab.keyboard.press("ArrowRight")
    assert "A blocks.0.first | B blocks.0.first" in tab.inner_text("#signal .tip")
    rms = contrast.a.report.analysis.modules["blocks.0.first"].rms
    assert f"A {rms:.4g}" in tab.inner_text("#signal .tip")
    assert tab.locator("#finding-list > div").count() == 2
    phone = show(contrasted(contrast), viewport={"width": 375, "height": 700})
    assert phone.evaluate("document.documentElement.scrollWidth") <= 375


def test_a_live_model_answers(browser):
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'initio[serve]'")
    with serving.bound("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(serving.application(Live(Target("net", Network), "8x16"), "token"), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        tab, said = browser.new_page(), []
        tab.on("console", lambda message: said.append(message.text) if "favicon" not in str(message.location) else None)
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(f"http://127.0.0.1:{listener.getsockname()[1]}/token/")
        tab.wait_for_selector("#live[data-times='0']")
        for scheme, viewport in SCREENS:
            tab.emulate_media(color_scheme=scheme)
            tab.set_viewport_size(viewport)
            assert unfit(tab) == []
            assert tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        tab.fill("#live-batch", "32")
        tab.press("#live-batch", "Enter")
        tab.wait_for_selector("#live[data-times='1']")
        assert "32×16" in tab.inner_text("#verdict")
        tab.locator(".fork").first.click()
        tab.fill("#live-gain", "3")
        tab.press("#live-gain", "Enter")
        tab.wait_for_selector("#live[data-times='2']")
        assert "blocks.0" in tab.inner_text("#selection")

        def build():
            model = Network()
            for layer in (model.blocks[0].first, model.blocks[0].second):
                nn.init.uniform_(layer.weight, -0.75, 0.75)
            return model

        rms = initio.analyze(build, "32x16").modules["blocks.0"].rms
        assert f"{rms:.4g}" in tab.inner_text("#selection")
        assert "parameter.mul_(3.0)" in tab.inner_text("#live-code")
        tab.close()
        server.should_exit = True
        thread.join(20)
    assert said == []
