"""The page of a service: its three files, what they are served with, and a real browser."""

import json
import re
import shutil
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fakes import factor_bytes, running_front, until

import hesscomp
from hesscomp.cli.main import main

PAGES = Path(hesscomp.__file__).parent / "service" / "pages"
TEXTS = {path.name: path.read_text() for path in PAGES.iterdir()}


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


INDEX = Elements(TEXTS["index.html"]).found
IDS = [attributes["id"] for _, attributes in INDEX if "id" in attributes]


def test_the_page_is_of_one_piece():
    """Nothing from elsewhere, and nothing that the content security policy refuses."""
    assert set(TEXTS) == {"index.html", "page.js", "page.css"}
    for text in TEXTS.values():
        assert re.findall(r"https?://[^\s\"']+", text) in ([], ["http://www.w3.org/2000/svg"])
    for tag, attributes in INDEX:
        assert tag != "style" and "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "script" or attributes["src"] == "page.js"
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|document\.write", TEXTS["page.js"]
    )
    assert "@import" not in TEXTS["page.css"] and "url(" not in TEXTS["page.css"]


def test_every_element_that_the_script_uses_is_there():
    used = set(re.findall(r'\bat\("([\w-]+)"\)', TEXTS["page.js"]))
    assert len(used) > 20 and used <= set(IDS)
    assert len(IDS) == len(set(IDS))


def test_elements_have_names():
    """Each field its label, each region its heading, and each reference its target."""
    labels = {attributes.get("for") for tag, attributes in INDEX if tag == "label"}
    for tag, attributes in INDEX:
        if tag in ("input", "select", "textarea"):
            assert attributes["id"] in labels
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, IDS[0]) in IDS
    assert ("html", {"lang": "en"}) in INDEX


def test_colours_can_be_read():
    """Text on its ground has a contrast of 4.5 at least, as WCAG 2.2 asks, light and dark."""
    schemes = re.findall(r":root \{(.*?)\}", TEXTS["page.css"], re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): #(\w{6})", scheme))
        for name in ("ink", "soft", "blue", "red", "green", "amber"):
            for ground in ("paper", "panel"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def contrast(a: str, b: str) -> float:
    """The ratio of two colours' luminances, by WCAG 2.2."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with running_front(tmp_path_factory.mktemp("page") / "svc") as running:
        yield running


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/page.js", "page.js", "text/javascript"),
        ("/page.css", "page.css", "text/css"),
    ],
)
def test_the_page_is_served_with_its_policy(running, path, name, kind):
    with urllib.request.urlopen(running.url + path, timeout=10) as answer:
        assert answer.read().decode() == TEXTS[name]
        assert answer.headers["content-type"].startswith(kind)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy and "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_address_of_the_page(running, tmp_path, capsys):
    """With a port it is the service's own; else a tunnel leads to the socket or to the host."""
    folder, token = running.folder, running.service.token
    assert main(["page", str(folder)]) == 0
    assert capsys.readouterr().out == f"{running.url}/#token={token}\n"
    known = json.loads((folder / "service.json").read_text())
    port = known["url"].rpartition(":")[2]
    (tmp_path / "token").write_text(token)
    for changed, there, host in (
        ({"url": None}, known["socket"], known["host"]),
        ({"host": "n7"}, f"127.0.0.1:{port}", "n7"),
    ):
        (tmp_path / "service.json").write_text(json.dumps({**known, **changed}))
        assert main(["page", str(tmp_path), "--local-port", "8123"]) == 0
        said = capsys.readouterr().out
        assert f"ssh -N -L 8123:{there} {host}\n" in said
        assert said.endswith(f"http://127.0.0.1:8123/#token={token}\n")
    (tmp_path / "service.json").unlink()
    assert main(["page", str(tmp_path)]) == 1
    assert "no service runs here" in capsys.readouterr().err


class Browser:
    """Chromium at the page of a service, by Debian's driver, mostly used by its keyboard."""

    def __init__(self, running):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        for word in ("headless=new", "no-sandbox", "disable-gpu", "no-proxy-server"):
            options.add_argument(f"--{word}")
        options.add_argument("--disable-dev-shm-usage")
        options.add_argument("--window-size=1100,1200")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver, self.running = webdriver.Chrome(options, driver), running

    def enter(self) -> None:
        self.driver.get(f"{self.running.url}/#token={self.running.service.token}")
        self.until("!document.getElementById('content').hidden && state('State') === 'ready'")

    def ask(self, script: str):
        """What JavaScript returns: `state(NAME)` is a fact of the service, `job(ID)` a row."""
        return self.driver.execute_script(
            "const facts = [...document.querySelectorAll('#facts div')];"
            "const state = (name) => facts.find((each) => each.firstChild.textContent === name)"
            "?.lastChild.textContent;"
            "const job = (id) => document.querySelector(`tr[data-job=${id}]`);"
            "const tag = (id) => job(id)?.querySelector('.tag').textContent;"
            f"return {script}"
        )

    def until(self, script: str, seconds: float = 20):
        from selenium.common.exceptions import JavascriptException
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(self.driver, seconds, 0.05, [JavascriptException])
        return wait.until(lambda _: self.ask(script), f"never: {script}")

    def until_tabs(self, count: int) -> None:
        """Wait for so many tabs, and go on in the last."""
        until(lambda: len(self.driver.window_handles) == count)
        self.driver.switch_to.window(self.driver.window_handles[-1])

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, selector: str) -> None:
        """Go on by the tabulator until an element is active; each stop shows that it is."""
        for _ in range(60):
            self.press("\ue004")
            if self.ask("document.activeElement !== document.body"):
                assert self.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            if self.ask(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        pytest.fail(f"the keyboard does not reach {selector}")

    def width(self, pixels: int) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": pixels < 500},
        )

    def prefer(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


@pytest.fixture
def browser(running):
    for program in ("chromium", "chromedriver"):
        if not shutil.which(program):
            pytest.skip(f"there is no {program}: apt-get install chromium chromium-driver")
    found = Browser(running)
    yield found
    found.driver.quit()


ENTER = "\ue007"


@pytest.mark.slow
def test_a_job_by_the_keyboard_alone(browser, tmp_path):
    """Queued, seen to go on, cancelled, queued again, and looked at when it is done."""
    running = browser.running
    running.rank.step, running.rank.factor = 0.3, factor_bytes(tmp_path)
    browser.enter()
    assert "token" not in browser.driver.current_url
    (cookie,) = browser.driver.get_cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    assert browser.ask("document.cookie") == ""
    assert browser.ask("state('Parameters')") == "5" and browser.ask("state('Ranks')") == "1"

    browser.tab_to("#new > summary")
    browser.press(ENTER)
    browser.tab_to("#options")
    browser.press('rank=4\nwhich="<img src=x onerror=alert(1)>"')
    browser.tab_to("#submit button")
    browser.press(ENTER)
    browser.until("!document.getElementById('alert').hidden")  # there is no such `which`
    assert browser.ask("document.querySelectorAll('img').length") == 0
    browser.driver.execute_script("document.getElementById('options').value = 'rank=4'")
    browser.press(ENTER)
    browser.until("tag('j000001') === 'running'")
    browser.until("job('j000001').querySelector('progress').value > 2")
    browser.until("document.querySelector('#job-curves polyline')")
    browser.driver.execute_script("document.getElementById('jobs-heading').focus()")
    browser.tab_to('[aria-label="Cancel j000001"]')
    browser.press(ENTER)
    browser.until("tag('j000001') === 'cancelled'")
    assert browser.ask("document.activeElement.textContent") == "j000001"  # the button is gone
    assert "j000001, compress, is cancelled" in browser.ask(
        "document.getElementById('news').textContent"
    )
    assert running.client.job("j000001").state == "cancelled"

    running.rank.step = 0.01
    browser.tab_to('[aria-label="Submit j000001 again"]')
    browser.press(ENTER)
    browser.until("tag('j000002') === 'done'")
    browser.driver.execute_script("document.getElementById('jobs-heading').focus()")
    browser.tab_to("tr[data-job=j000002] a")
    browser.press(ENTER)
    browser.until("document.querySelector('#job-report img')?.naturalWidth > 500")
    alt = browser.ask("document.querySelector('#job-report img').alt")
    assert alt == "Spectrum of the factor of job j000002: 2 eigenvalues from 1 to 2"
    assert browser.ask("document.activeElement.id") == "job-heading"
    said = browser.ask("document.getElementById('job-warnings').textContent")
    assert said == "take care"
    names = browser.ask("[...document.querySelectorAll('#job-files a')].map((a) => a.textContent)")
    assert names == ["factor.h5", "numbers.json"]
    browser.tab_to("#job-report a")
    browser.press(ENTER)
    browser.until_tabs(2)
    browser.until("document.querySelector('h1')?.textContent.includes('a <script>fake')")
    assert browser.ask("document.querySelectorAll('svg').length") >= 2
    assert browser.ask("getComputedStyle(document.querySelector('.facts')).display") == "grid"
    severe = [each for each in browser.driver.get_log("browser") if each["level"] == "SEVERE"]
    assert all(" 422 " in each["message"] for each in severe), severe  # nothing was refused


@pytest.mark.slow
def test_a_picture_that_cannot_be_drawn_says_why(browser):
    browser.running.rank.step, browser.running.rank.factor = 0.01, b"no factor"
    job = browser.running.client.compress("zero", rank=2)
    job.result(10)
    browser.enter()
    browser.driver.execute_script(f"location.hash = '{job.id}'")
    caption = "document.querySelector('#job-report figcaption')?.textContent"
    browser.until(f"{caption}?.startsWith('It could not be drawn: hesscomp plot: ')")
    assert "factor.h5" in browser.ask(caption)


@pytest.mark.slow
def test_light_dark_and_narrow(browser):
    browser.enter()
    grounds = []
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        grounds.append(browser.ask("getComputedStyle(document.body).backgroundColor"))
        for pixels in (1100, 390, 320):
            browser.width(pixels)
            assert browser.ask("document.documentElement.scrollWidth") <= pixels
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 24, 30)"]


@pytest.mark.slow
def test_a_visitor_without_the_token(browser):
    browser.driver.get(f"{browser.running.url}/#token={'0' * 64}")
    browser.until("!document.getElementById('enter').hidden")
    assert browser.ask("document.getElementById('content').hidden")
    assert "token is missing or wrong" in browser.ask(
        "document.getElementById('alert').textContent"
    )
    browser.driver.execute_script("document.getElementById('token').focus()")
    browser.press(browser.running.service.token, ENTER)
    browser.until("!document.getElementById('content').hidden")
    assert browser.ask("document.getElementById('enter').hidden")
