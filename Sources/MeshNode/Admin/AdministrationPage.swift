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
        <section><h2>Routes <small id="unmatched"></small></h2><div class="wide"><table id="routes"></table></div></section>
        <section><h2>Policy</h2>
        <form id="question" autocomplete="off">
        <label>Who asks <input name="from" size="40" placeholder="local, anyone, ns/NAMESPACE/sa/NAME, or a SPIFFE ID"></label>
        <label>or at listener <select name="listener"></select></label>
        <label>for <input name="to" size="24" placeholder="HOST:PORT, or a URL"></label>
        <label>over <select name="transport"></select></label>
        <label>from address <input name="sourceIP" size="16" placeholder="127.0.0.1"></label>
        <details><summary>A request of HTTP</summary>
        <label>Method <input name="method" size="8" placeholder="GET"></label>
        <label>Path <input name="path" size="24" placeholder="/v1/"></label>
        <label>Token of <input name="requestPrincipal" size="32" placeholder="ISSUER/SUBJECT"></label>
        </details>
        <button id="ask">Explain</button>
        </form>
        <div class="wide" role="status"><table id="verdict"></table></div>
        <h3>Rules</h3><div class="wide"><table id="rules"></table></div>
        <h3>Last decisions</h3><div class="wide"><table id="decisions"></table></div></section>
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
        .good { color: #282; font-weight: 600; }
        h3 { font-size: .9rem; margin: 1rem 0 .3rem; }
        form { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: baseline; }
        details { flex-basis: 100%; }
        details label { margin-right: 1rem; }
        #verdict td:first-child { white-space: nowrap; width: 6rem; }
        #verdict:not(:empty) { margin-top: .5rem; }
        pre { overflow-x: auto; background: #8881; padding: .5rem; }

        """

    private static let script = """
        "use strict";
        const $ = (id) => document.getElementById(id);
        const samples = [];
        let part = "";

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
          $("rate").textContent = "sent " + bytes(last[0]) + "/s, received " + bytes(last[1]) + "/s, at most " + bytes(top) + "/s" + part;
        }

        async function streams() {
          const page = await (await get("/streams?limit=200")).json();
          $("total").textContent = page.total;
          const sum = (key) => page.streams.reduce((total, stream) => total + stream[key], 0);
          const shown = page.streams.length;
          part = page.total > shown ? " (" + shown + " of " + page.total + " streams)" : "";
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
          const trip = (one) => [one.roundTripTime === undefined ? "" : (one.roundTripTime * 1000).toFixed(1) + " ms", "number"];
          const reverse = (what) => (one) => [
            what, one.from || one.gateway, one.state, [one.age === undefined ? "" : time(one.age), "number"], one.peer, trip(one),
            [one.streams, "number"], "", "", [one.failure, "bad"],
          ];
          fill($("paths"), ["peer", "path", "state", "since", "identity", "round trip", "streams", "sent", "received", "why"],
            page.peers.flatMap((peer) => peer.paths.flatMap((path) => [[
              peer.name, path.path, path.state, [path.age === undefined ? "" : time(path.age), "number"], path.peer, trip(path),
              [path.streams, "number"], [bytes(path.sent), "number"], [bytes(path.received), "number"],
              path.state === "inUse" ? path.why : [path.failure, "bad"],
            ]].concat((path.servers || []).map((server) => [
              "", server.address, server.state, "", "", "", "", "", "", [server.failure, "bad"],
            ])))).concat(page.held.map(reverse("held here")), page.gateways.map(reverse("reached through"))));
        }

        async function routes() {
          const page = await (await get("/routes?limit=200")).json();
          const left = page.total - page.routes.length;
          $("unmatched").textContent = (left > 0 ? page.routes.length + " of " + page.total + "; " : "") + "anything else: " + page.default;
          fill($("routes"), ["destination", "goes", "as", "to whom", "written"], page.routes.map((route) => [
            route.match,
            route.kind === "mesh" ? route.ways.join(", then ") : "dialled from here" + (route.tls ? ", with TLS for " + route.tls : ""),
            route.address, route.expects, route.place,
          ]));
        }

        async function policy() {
          const page = await (await get("/policy")).json();
          const row = (name, action, rule, counts, place) =>
            [name, action, rule, [counts.allowed, "number"], [counts.denied, "number"], place];
          fill($("rules"), ["policy", "action", "rule", "allowed", "denied", "written"],
            page.policies.flatMap((one) => one.rules.map((rule) =>
              row(one.name, one.action + (one.dryRun ? ", dry run" : ""), rule.rule, rule, rule.place)))
              .concat([row("none of them", "default", "", page.default, "")]));
          fill($("decisions"), ["time", "", "source", "over", "destination", "listener", "because", "rule"],
            page.decisions.map((one) => [
              one.time, [one.allowed ? "allowed" : "denied", one.allowed ? "good" : "bad"],
              one.source + " at " + one.address, one.over, one.destination, one.listener, one.reason, one.place,
            ]));
        }

        function facts(table, rows) {
          table.replaceChildren(...rows.map(([name, text, kind]) => {
            const row = element("tr");
            row.append(element("td", name), element("td", text, kind));
            return row;
          }));
        }

        async function explain(event) {
          event.preventDefault();
          const parts = [];
          for (const [name, value] of new FormData($("question"))) {
            if (value) parts.push(name + "=" + encodeURIComponent(value));
          }
          try {
            const response = await fetch("/explain?" + parts.join("&"), { cache: "no-store" });
            if (!response.ok) return facts($("verdict"), [["not asked", (await response.text()).trim(), "bad"]]);
            const plan = await response.json();
            facts($("verdict"), [
              ["result", plan.allowed ? "allowed" : "denied", plan.allowed ? "good" : "bad"],
              ["from", plan.from + " at " + plan.sourceIP + ", over " + plan.transport],
              ["to", plan.to],
            ].concat(
              plan.method ? [["request", plan.method + " " + (plan.path || "") + (plan.requestPrincipal ? ", with a token of " + plan.requestPrincipal : "")]] : [],
              [["policy", plan.policy.reason + (plan.policy.place ? " (" + plan.policy.place + ")" : "")]],
              plan.policy.notes.map((note) => ["", note]),
              [["route", plan.route.description]],
            ));
          } catch (error) {
            facts($("verdict"), [["not asked", error.message, "bad"]]);
          }
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
            await Promise.all([streams(), paths(), routes(), policy(), certificates(), directory()]);
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
        function options(select, values) {
          select.replaceChildren(...[""].concat(values).map((value) => element("option", value)));
        }

        options(document.querySelector("[name=transport]"), ["h2", "h2-reverse", "h2-via-gateway", "h2-over-ssh", "ssh"]);
        options(document.querySelector("[name=listener]"), []);
        $("question").addEventListener("submit", explain);
        get("/config").then(async (response) => {
          const text = await response.text();
          $("config").textContent = text;
          options(document.querySelector("[name=listener]"), JSON.parse(text).listeners.map((listener) => listener.name));
        }).catch(() => {});
        refresh();

        """
}
