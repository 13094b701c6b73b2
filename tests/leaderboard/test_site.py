"""The static page in a real browser: Debian's Chromium, driven by Playwright. Where there is none, skips say so."""
import csv
import os
import shutil
from pathlib import Path

import pytest

from leaderboard import analyses, build, site
from leaderboard.record import write
from leaderboard.tables import tables

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        if os.environ.get("CI_BROWSER"):
            pytest.fail("no Chromium: .ci/run installs it")
        pytest.skip("no Chromium on this machine: the page was not tried in a browser (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def board(results, make):
    """Four methods in two tasks, one with a curve, one unreliable; detections on two photos, one with a bad name."""
    boxes = [[["disc", 1, 2, 5, 5, 0.9], ["</svg><b>", 1, 2, 5, 5, 0.4]], []]
    analyses.keep(results, analyses.photos("d" * 64, [
        dict(id=7, width=40, height=20, objects=[["disc", 1, 2, 5, 5], ["star", 9, 2, 5, 5]]),
        dict(id=8, width=20, height=40, objects=[["disc", 1, 2, 5, 5]])]))
    analyses.keep(results, analyses.analysis("e" * 64, "d" * 64, {"bbox": {"Loc": 12.5}}, boxes))
    curve = [{"step": 10 * e, "epoch": e, "images": 100 * e, "encoder_pixels": 10**9 * e,
              "knn": {f"c{i}": 30.0 + i + e for i in range(2, 6)}} for e in (1, 2, 3)]
    for method, score in (("detco", 60.0), ("moco_v2", 50.0)):
        row = make(method, task="knn", main_metric="top1", metrics={"top1": score}, deterministic=True,
                   unreliable="a *bold* reason" if method == "detco" else None)
        row["checkpoint"]["metadata"]["monitor"] = curve
        write(results, row)
    return results


@pytest.fixture
def page(board, browser):
    """The board's page, opened; a line on the console or an error of a script fails the test."""
    [_, path] = build.write(board)
    context = browser.new_context(accept_downloads=True)
    opened, said = context.new_page(), []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: said.append(request.url) if not request.url.startswith(
        ("file:", "blob:", "data:")) else None)
    opened.goto(path.as_uri())
    yield opened
    assert said == []
    context.close()


def column(page, title):
    heads = [head.rstrip(" ↑↓") for head in page.locator("#board thead th").all_inner_texts()]
    return [row.locator("th, td").nth(heads.index(title)).inner_text() for row in page.locator("#board tbody tr").all()]


def test_it_shows_what_the_markdown_shows(page, board):
    assert page.locator("#count").inner_text().startswith("6 of ")
    assert column(page, "method") == ["detco", "moco_v2", "supervised", "random_init", "detco ‡", "moco_v2"]
    assert column(page, "score")[:2] == ["24.3 ± 0.7", "23.3 ± 0.7"] and column(page, "score")[4] == "60.0 †"
    assert column(page, "against moco_v2")[:3] == ["▲ better", "", "▼ worse"]
    markdown = (board.parent / "LEADERBOARD.md").read_text().replace("\u00a0", " ")
    assert all(score in markdown for score in column(page, "score"))


def test_it_sorts_by_any_column_with_the_keyboard_too(page):
    page.locator("#board thead button", has_text="score").click()
    assert column(page, "score") == ["60.0 †", "50.0 †", "24.3 ± 0.7", "23.3 ± 0.7", "21.8 ± 0.7", "17.3 ± 0.7"]
    assert page.locator("#board th[aria-sort=descending]").inner_text().startswith("score")
    page.keyboard.press("Enter")  # the head keeps the focus
    assert column(page, "score")[0] == "17.3 ± 0.7" and page.locator("#board th[aria-sort=ascending]").count() == 1


def test_it_filters_searches_and_chooses_columns(page):
    page.select_option("#task", "knn")
    assert column(page, "method") == ["detco ‡", "moco_v2"]
    page.fill("#search", "moco")
    assert column(page, "method") == ["moco_v2"] and page.locator("#count").inner_text().startswith("1 of ")
    page.locator("button[type=reset]").click()
    page.locator("#board tbody tr").nth(5).wait_for()
    page.select_option("#source", "reported")
    assert set(column(page, "scale")) == {"paper"} and "detco" in column(page, "method")
    page.select_option("#source", "measured")
    page.locator("#choose summary").click()
    page.locator("#columns label", has_text="bbox_AP50").locator("input").check()
    assert column(page, "bbox_AP50")[0] == "40.3 ± 0.7"


def test_a_row_leads_to_its_records_protocol_and_command(page, board):
    page.locator("#board tbody button").first.click()
    detail = page.locator("#detail")
    links = [link.get_attribute("href") for link in detail.locator("a").all()]
    assert len(links) == 4 and all((board.parent / "site" / link).resolve().is_file() for link in links)
    assert "run.py --scale mini --task coco_maskrcnn_c4 --method detco --pretrain-seed 0 --seed 0 1 2" in \
        detail.inner_text()
    page.select_option("#task", "knn")
    page.locator("#board tbody button").first.click()
    assert "Unreliable: a *bold* reason" in detail.inner_text()
    detail.locator("button").click()
    assert detail.inner_text() == ""


def test_commands_say_what_was_tuned_on_whose_data_backbone_and_precision(make):
    trials = [dict(values={"optimizer.lr": rate, "k": k}, score=1.0, wall_seconds=1.0) for rate in (0.1, 0.2)
              for k in (1, 2)]
    search = dict(chosen=trials[0]["values"], held_out=20, trials=trials)
    row = make(schedule="mini+orchard+tuned-0a1b2c3d", tuning=search)
    row["data"] = row["data"] | dict(source="orchard")
    assert site._command("detco", [row]).endswith("--seed 0 --data orchard.yml --tune task.k=1,2 "
                                                  "--tune task.optimizer.lr=0.1,0.2")
    assert "--data" not in site._command("detco", [make()])
    row = make(scale="paper", schedule="12k+resnet34+bf16", arch="resnet34")
    assert site._command("detco", [row]).endswith(
        "--scale paper --task coco_maskrcnn_c4 --schedule 12k --arch resnet34 --amp --method detco --pretrain-seed 0 "
        "--seed 0")


def test_two_methods_are_compared_with_their_intervals(page):
    page.select_option("#a", "supervised")
    rows = page.locator("#differences tbody tr")
    assert [cell.strip() for cell in rows.first.locator("th, td").all_inner_texts()][:7] == [
        "coco_maskrcnn_c4", "bbox_AP", "\u22121.50", "\u22121.50 … \u22121.50", "< 0.001", "▼ worse", "3 transfers"]
    page.select_option("#b", "supervised")
    assert "could be compared" in rows.first.inner_text()


def test_tables_are_saved_as_csv_without_formulas(page, tmp_path):
    with page.expect_download() as saved:
        page.locator("#csv").click()
    saved.value.save_as(tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and rows[0]["method"] == "detco" and rows[0]["score"] == "24.3 ± 0.7"


def test_objects_and_both_methods_boxes_stand_beside_each_other(page):
    figures = page.locator("#photos .photos").first.locator("figure")
    assert figures.locator("figcaption").all_inner_texts() == ["objects of photo 7", "detco p0 s0", "moco_v2 p0 s0"]
    assert figures.nth(0).locator("text").all_text_contents() == ["disc", "star"]
    assert figures.nth(1).locator("text").all_text_contents() == ["disc 0.90", "</svg><b> 0.40"]
    second = page.locator("#photos .photos").nth(1)
    assert "photo 8: 0 boxes" in second.locator("svg").nth(1).get_attribute("aria-label")
    page.select_option("#photos-score", "0.7")
    page.select_option("#photos-b", "supervised")
    assert figures.nth(1).locator("text").all_text_contents() == ["disc 0.90"]
    assert figures.locator("figcaption").nth(2).inner_text() == "supervised p0 s0"
    page.locator("#board tbody button").first.click()
    assert "AP50 lost to kinds of errors (TIDE): bbox Loc 12.5" in page.locator("#detail").inner_text()


def test_correlations_are_shown_from_five_methods_on(page, browser, make, tmp_path):
    assert page.locator("#foretold-section").is_hidden()
    rows = [make(f"m{i}", task=task, metrics={"bbox_AP": float(i if task == "a" else (i * 3) % 5)})
            for task in "ab" for i in range(5)]
    (tmp_path / "index.html").write_text(site.page(tables(rows), {}, {}))
    opened = browser.new_page()
    opened.goto((tmp_path / "index.html").as_uri())
    cells = opened.locator("#foretold tbody tr").first.locator("th, td").all_inner_texts()
    assert cells[:2] == ["a", "1"] and cells[2].startswith("+0.50")
    assert "5 methods" in cells[2]


def test_plots_hold_every_method_and_every_point(page):
    assert page.locator("#cost svg text", has_text="random_init").count() == 1
    assert page.locator("#curves svg circle").count() == 2 * 3 + 2  # points, and the legend's
    page.select_option("#curve-axis", "encoder_pixels")
    assert page.locator("#curves svg text", has_text="encoder pixels, billions").count() == 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_and_a_phone_needs_no_sideways_scrolling(theme, page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.select_option("#theme", theme)
    page.locator("#board tbody button").first.click()
    page.locator("#choose summary").click()
    for width in (1300, 390):
        page.set_viewport_size(dict(width=width, height=844))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        faults = [(f["id"], f["nodes"][0]["html"]) for f in axe.run(page).response["violations"]
                  if f["impact"] in ("serious", "critical")]
        assert faults == []


@pytest.mark.parametrize("text", [
    "</script><script>document.title='x'</script>", "<!--<script>", "\u2028", "<img src=x>"])
def test_no_field_ends_the_data_or_becomes_markup(text, browser, make, tmp_path):
    """Rows that the schema would refuse, in every field that is text."""
    row = make(text, task=text, schedule=text, unreliable=text, changes={text: text}, arch=text,
               cost=make()["cost"] | {"device": text}, metrics={text: 1.0}, main_metric=text)
    row["checkpoint"]["metadata"]["monitor"] = [{"epoch": 1, "encoder_pixels": 1, "knn": {"c5": 1.0}}]
    html = site.page(tables([row]), {}, {})
    assert html.count("<script") == 2 and html.count("</script>") == 2 and "<img src=x>" not in html
    (tmp_path / "index.html").write_text(html)
    opened = browser.new_page()
    opened.goto((tmp_path / "index.html").as_uri())
    opened.locator("#board tbody button").click()
    assert opened.title() == "DetCo Bench: leaderboard" and opened.locator("img, #detail script").count() == 0


def test_the_shipped_page_opens_without_a_word(browser):
    opened, said = browser.new_page(), []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto((Path(build.__file__).parent / "site" / "index.html").as_uri())
    assert int(opened.locator("#count").inner_text().split()[0]) > 50 and said == []
