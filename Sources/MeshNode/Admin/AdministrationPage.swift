/// What a browser shows of a node: plain HTML, CSS and JavaScript, in the binary as they are. The script makes text
/// nodes only, so that nothing a peer has written is ever markup; nothing is loaded from elsewhere.
enum AdministrationPage {
    static func response(to path: String) -> OperationResponse? {
        switch path {
        case "/": file("text/html; charset=utf-8", html)
        case "/page.css": file("text/css; charset=utf-8", css)
        case "/page.js": file("text/javascript; charset=utf-8", script)
        default: nil
        }
    }

    private static func file(_ type: String, _ text: String) -> OperationResponse {
        var response = OperationResponse(type: type, body: Array(text.utf8))
        response.contentPolicy =
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
            + "form-action 'none'; frame-ancestors 'none'"
        return response
    }

    private static let html = """
        <!doctype html>
        <html lang="en">
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width">
        <title>bootstrap node</title>
        <link rel="stylesheet" href="/page.css">
        <link rel="icon" href="data:,">
        <header><h1 id="identity">bootstrap node</h1><p id="state" role="status">…</p></header>
        <main>
        <section><h2>Bytes a second</h2><svg id="rates" viewBox="0 0 300 60" preserveAspectRatio="none"></svg>
        <p id="rate"></p></section>
        <section><h2>Streams <small id="total"></small></h2><div class="wide"><table id="streams"></table></div></section>
        <section><h2>Paths</h2><div class="wide"><table id="paths"></table></div></section>
        <section id="directories" hidden><h2>Directory</h2><p id="directory"></p></section>
        <section><h2>Certificates</h2><div class="wide"><table id="certificates"></table></div></section>
        <section><h2>Orders</h2>
        <p><label>Log level <select id="level"></select></label> <button id="drain">Drain</button>
        <output id="answer"></output></p></section>
        <section><h2>Configuration in effect</h2><pre id="config"></pre></section>
        </main>
        <script src="/page.js"></script>
        </html>

        """

    private static let css = """
        :root { color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif; }
        body { margin: 0 auto; max-width: 120rem; padding: 0 1rem 2rem; }
        header { display: flex; gap: 1rem; align-items: baseline; flex-wrap: wrap; }
        h1 { font-size: 1.2rem; overflow-wrap: anywhere; }
        h2 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
        .wide { overflow-x: auto; }
        table { border-collapse: collapse; width: 100%; }
        th, td { text-align: left; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
        td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
        svg { width: 100%; height: 60px; background: #8881; }
        polyline { fill: none; stroke: #27c; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
        polyline.received { stroke: #c62; }
        .bad { color: #c22; font-weight: 600; }
        pre { overflow-x: auto; background: #8881; padding: .5rem; }

        """

    private static let script = """
        "use strict";
        const $ = (id) => document.getElementById(id);
        const samples = [];

        function element(name, text, className) {
          const node = document.createElement(name);
          if (text !== undefined) node.textContent = text;
          if (className) node.className = className;
          return node;
        }

        function fill(table, titles, rows) {
          const head = element("tr");
          for (const title of titles) head.append(element("th", title));
          const lines = rows.map((cells) => {
            const row = element("tr");
            for (const cell of cells) {
              const [text, kind] = Array.isArray(cell) ? cell : [cell];
              row.append(element("td", text ?? "", kind));
            }
            return row;
          });
          if (!rows.length) lines.push(element("tr")), lines[0].append(element("td", "none"));
          table.replaceChildren(head, ...lines);
        }

        function bytes(count) {
          const units = ["B", "kB", "MB", "GB", "TB"];
          let unit = 0;
          while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit += 1; }
          return (unit ? count.toFixed(1) : Math.round(count)) + " " + units[unit];
        }

        function time(seconds) {
          if (seconds < 0) return "over";
          if (seconds < 120) return Math.round(seconds) + " s";
          if (seconds < 7200) return Math.round(seconds / 60) + " min";
          if (seconds < 172800) return Math.round(seconds / 3600) + " h";
          return Math.round(seconds / 86400) + " d";
        }

        async function get(path) {
          const response = await fetch(path, { cache: "no-store" });
          if (!response.ok && path !== "/readyz") throw new Error(path + ": " + response.status);
          return response;
        }

        function draw() {
          const top = Math.max(1, ...samples.flat());
          $("rates").replaceChildren(...[0, 1].map((index) => {
            const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
            const points = samples.map((pair, at) => (300 - (samples.length - 1 - at) * 5) + "," + (58 - 56 * pair[index] / top));
            line.setAttribute("points", points.join(" "));
            line.setAttribute("class", index ? "received" : "sent");
            return line;
          }));
          const last = samples[samples.length - 1];
          $("rate").textContent = "sent " + bytes(last[0]) + "/s, received " + bytes(last[1]) + "/s, at most " + bytes(top) + "/s";
        }

        async function streams() {
          const page = await (await get("/streams?limit=200")).json();
          $("total").textContent = page.total;
          const sum = (key) => page.streams.reduce((total, stream) => total + stream[key], 0);
          samples.push([sum("sentPerSecond"), sum("receivedPerSecond")]);
          if (samples.length > 61) samples.shift();
          draw();
          fill($("streams"), ["id", "listener", "source", "destination", "path", "peer", "sent", "received", "age", "why"],
            page.streams.map((stream) => [
              stream.id, stream.listener + " (" + stream.protocol + ")", stream.source + " at " + stream.address,
              stream.destination, stream.path, stream.peer,
              [bytes(stream.sent) + ", " + bytes(stream.sentPerSecond) + "/s", "number"],
              [bytes(stream.received) + ", " + bytes(stream.receivedPerSecond) + "/s", "number"],
              [time(stream.age), "number"], stream.why,
            ]));
        }

        async function paths() {
          const page = await (await get("/paths")).json();
          fill($("paths"), ["peer", "path", "state", "identity", "round trip", "streams", "failure"],
            page.peers.flatMap((peer) => peer.paths.flatMap((path) => [[
              peer.name, path.path, path.state, path.peer,
              [path.roundTripTime === undefined ? "" : (path.roundTripTime * 1000).toFixed(1) + " ms", "number"],
              [path.streams, "number"], [path.failure, "bad"],
            ]].concat((path.servers || []).map((server) => [
              "", server.address, server.state, "", "", "", [server.failure, "bad"],
            ])))));
        }

        async function certificates() {
          const page = await (await get("/certificates")).json();
          $("identity").textContent = page.identity;
          const row = (use) => (one) => [
            use, one.subject || page.identity, one.issuer, one.serial, one.notAfter,
            [time(one.remaining), one.remaining < 3600 ? "number bad" : "number"],
          ];
          fill($("certificates"), ["", "subject", "issuer", "serial", "until", "left"],
            page.chain.map(row("own")).concat(page.trust.flatMap((domain) => domain.roots.map(row("trusts " + domain.domain)))));
        }

        async function directory() {
          const one = await (await get("/directory")).json();
          $("directories").hidden = one.source === "none";
          const what = one.revision === undefined ? "nothing yet"
            : "revision " + one.revision + ", signed " + time(one.age) + " ago: " + one.endpoints + " endpoints, "
              + one.policies + " policies, " + one.bundles + " bundles";
          $("directory").textContent = one.source + ": " + what + (one.problem ? "; " + one.problem : "");
          $("directory").className = one.problem ? "bad" : "";
        }

        async function refresh() {
          try {
            await Promise.all([streams(), paths(), certificates(), directory()]);
            const ready = await get("/readyz");
            $("state").textContent = (await ready.text()).trim();
            $("state").className = ready.ok ? "" : "bad";
          } catch (error) {
            $("state").textContent = "no answer: " + error.message;
            $("state").className = "bad";
          }
          setTimeout(refresh, 2000);
        }

        async function order(path) {
          const response = await fetch(path, { method: "POST", headers: { "x-bootstrap": "1" } });
          $("answer").textContent = (await response.text()).trim();
        }

        for (const level of ["", "trace", "debug", "info", "notice", "warning", "error", "critical"]) {
          $("level").append(element("option", level));
        }
        $("level").addEventListener("change", () => $("level").value && order("/loglevel?level=" + $("level").value));
        $("drain").addEventListener("click", () => confirm("End this node once its streams have ended?") && order("/drain"));
        get("/config").then(async (response) => { $("config").textContent = await response.text(); }).catch(() => {});
        refresh();

        """
}
