"""Opens a page in headless Chromium and does there what it is told, by the DevTools protocol.

usage: page.py URL SCRIPT [SCREENSHOT]

SCRIPT is the body of an async function that runs in the page; prints what it returns as one line of JSON, with what the
browser has complained about: {"value": ..., "complaints": [...]}. Waiting is the script's: `await until(() => ...)`.
"""

import asyncio
import base64
import json
import os
import subprocess
import sys
import tempfile

import websockets

HELPERS = """
const until = async (condition) => {
    const end = Date.now() + 30000;
    for (;;) {
        const value = condition();
        if (value) return value;
        if (Date.now() > end) throw new Error("not within 30 s: " + condition);
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
};
"""


class Page:
    def __init__(self, socket):
        self.socket = socket
        self.number = 0
        self.complaints = []

    async def call(self, method, **parameters):
        self.number += 1
        await self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self.socket.recv())
            self.note(message)
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    async def wait(self, method):
        while True:
            message = json.loads(await self.socket.recv())
            self.note(message)
            if message.get("method") == method:
                return

    def note(self, message):
        if message.get("method") == "Log.entryAdded":
            entry = message["params"]["entry"]
            self.complaints.append(f"{entry['source']}: {entry['text']}")
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(message["params"]["exceptionDetails"]))


async def run(url, script, screenshot, profile):
    place = os.path.join(profile, "DevToolsActivePort")
    for _ in range(600):
        if os.path.exists(place) and len(open(place).read().split()) == 2:
            break
        await asyncio.sleep(0.1)
    port, path = open(place).read().split()
    async with websockets.connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as browser:
        first = Page(browser)
        target = (await first.call("Target.createTarget", url="about:blank"))["targetId"]
    async with websockets.connect(f"ws://127.0.0.1:{port}/devtools/page/{target}", max_size=None) as socket:
        page = Page(socket)
        for domain in ["Page", "Log", "Runtime"]:
            await page.call(f"{domain}.enable")
        await page.call(
            "Emulation.setDeviceMetricsOverride", width=1400, height=1800, deviceScaleFactor=1, mobile=False
        )
        await page.call("Page.navigate", url=url)
        await page.wait("Page.loadEventFired")
        result = await page.call(
            "Runtime.evaluate",
            expression=f"(async () => {{ {HELPERS} {script} }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        if screenshot:
            picture = await page.call("Page.captureScreenshot", format="png")
            with open(screenshot, "wb") as file:
                file.write(base64.b64decode(picture["data"]))
        print(json.dumps({"value": result["result"].get("value"), "complaints": page.complaints}), flush=True)


def main():
    url, script = sys.argv[1], sys.argv[2]
    screenshot = sys.argv[3] if len(sys.argv) > 3 else None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        profile = os.path.join(home, "profile")
        browser = subprocess.Popen(
            [
                "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--host-resolver-rules=MAP rebound.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
            ],
            env={**os.environ, "HOME": home},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            asyncio.run(asyncio.wait_for(run(url, script, screenshot, profile), 120))
        finally:
            browser.terminate()
            browser.wait()


main()
