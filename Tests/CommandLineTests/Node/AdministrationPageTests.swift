import Foundation
import TestPeers
import Testing

/// The page of a node's administration, in Debian's Chromium without a window.
@Suite(
    .enabled(if: TestTools.isInstalled("chromium"), "chromium is not installed"),
    .serialized,
    .timeLimit(.minutes(10))
)
struct AdministrationPageTests {
    /// What a script has returned, and what the browser has complained about meanwhile.
    private static func visit(_ url: String, _ script: String) async throws -> (value: Any?, complaints: [String]) {
        var arguments = [TestTools.repository + "/Tests/Peers/browser/page.py", url, script]
        if let picture = ProcessInfo.processInfo.environment["BOOTSTRAP_SCREENSHOT"] { arguments.append(picture) }
        let output = try await ChildProcess.run(TestTools.python, arguments, within: .seconds(150))
        try #require(output.succeeded, "\(output.standardError)")
        let object = try JSONSerialization.jsonObject(with: Data(output.standardOutput.utf8)) as? [String: Any]
        return (object?["value"], object?["complaints"] as? [String] ?? [])
    }

    private final class Setup: Sendable {
        let directory = TemporaryDirectory()
        let backend: EchoServer
        let node: ChildProcess
        let admin = FreePort.next()
        let entry = FreePort.next()

        init() async throws {
            backend = try EchoServer()
            let file = try directory.write(
                "node.yaml",
                """
                identity: \(TestCertificates.shared.path(.client))
                listeners:
                - {name: in, bind: "127.0.0.1:\(entry)", protocol: tcp, forwardTo: "127.0.0.1:\(backend.port)"}
                - {name: proxy, bind: "127.0.0.1:0", protocol: http-proxy}
                endpoints:
                - {match: "127.0.0.1:\(backend.port)", direct: true}
                - {match: "db.prod:5432", hbone: ["10.255.0.7:15008", "10.255.0.8:15008"]}
                policy:
                - {name: ops, action: ALLOW, rules: [{from: [{namespaces: [ops]}], to: [{ports: [22, 5432]}]}]}
                - {name: "<b>quarantine</b>", action: DENY, rules: [{to: [{hosts: ["secret.prod"]}]}]}
                admin: "127.0.0.1:\(admin)"
                """
            )
            node = try ChildProcess(TestTools.bootstrap, ["node", "--config", file])
            _ = try await node.standardOutput.line(containing: "ready proxy")
        }

        func stop() async { _ = await node.stop() }
    }

    @Test func policyIsExplained() async throws {
        let setup = try await Setup()
        let talk = try await TCPConversation(port: setup.entry)
        #expect(try await talk.echo([1]) == [1])
        let script = """
            const text = (id) => document.getElementById(id).innerText;
            const field = (name) => document.querySelector(`[name=${name}]`);
            const ask = async (parts, word) => {
                for (const name of ["from", "to", "listener", "transport", "sourceIP"]) field(name).value = parts[name] || "";
                document.getElementById("verdict").replaceChildren();
                document.getElementById("ask").click();
                await until(() => text("verdict").includes(word));
                return text("verdict");
            };
            await until(() => document.getElementById("state").textContent === "ready");
            await until(() => field("listener").options.length === 3);
            return {
                denied: await ask({ from: "ns/ops/sa/a&b=c %é", to: "db.prod:5432", sourceIP: "10.0.0.1" }, "not asked"),
                wrong: await ask({ from: "ns/web/sa/a", to: "secret.prod:22" }, "denied"),
                allowed: await ask({ from: "ns/ops/sa/ann", to: "db.prod:5432", transport: "h2" }, "allowed"),
                listener: await ask({ listener: "in" }, "allowed"),
                missing: await ask({ from: "local" }, "not asked"),
                routes: text("routes"), rules: text("rules"), decisions: text("decisions"), unmatched: text("unmatched"),
                bold: document.querySelectorAll("b").length,
            };
            """
        let (value, complaints) = try await Self.visit("http://127.0.0.1:\(setup.admin)/", script)
        let page = try #require(value as? [String: Any])
        func text(_ name: String) -> String { page[name] as? String ?? "" }
        #expect(text("denied").contains("'from' ns/ops/sa/a&b=c %é"), "it arrives as it was written: \(text("denied"))")
        #expect(text("wrong").contains("policy '<b>quarantine</b>', rule 1 (DENY)"), "\(text("wrong"))")
        #expect(
            text("allowed").contains("policy 'ops', rule 1 (ALLOW)") && text("allowed").contains("10.255.0.7:15008")
        )
        #expect(text("listener").contains("dial 127.0.0.1:\(setup.backend.port)"), "\(text("listener"))")
        #expect(text("missing").contains("'to' is missing"))
        #expect(text("routes").contains("db.prod:5432") && text("unmatched") == "anything else: deny")
        #expect(text("rules").contains("<b>quarantine</b>") && text("rules").contains("none of them"))
        // Asking decides nothing: what a client has done is all there is.
        #expect(text("decisions").components(separatedBy: "\n").count == 2, "\(text("decisions"))")
        #expect(text("decisions").contains("127.0.0.1:\(setup.backend.port)"))
        #expect(page["bold"] as? Int == 0, "names are text")
        // Of the wrong questions it says that they were refused, and of the icon that is none that it is not loaded.
        let others = complaints.filter { !$0.contains("400 (Bad Request)") && !$0.contains("'data:,'") }
        #expect(others.isEmpty, "\(others)")
        await setup.stop()
    }

    /// What a page of another origin, or a name that was pointed here, gets.
    @Test func anotherPageAsksInVain() async throws {
        let setup = try await Setup()
        let script = """
            const tries = [];
            for (const [url, options] of [
                ["http://127.0.0.1:\(setup.admin)/policy", {}], ["http://localhost:\(setup.admin)/explain?from=local&to=a:1", {}],
                ["http://127.0.0.1:\(setup.admin)/drain", { method: "POST", headers: { "x-bootstrap": "1" } }],
                ["http://127.0.0.1:\(setup.admin)/drain", { method: "POST", mode: "no-cors" }],
            ]) {
                try {
                    const response = await fetch(url, options);
                    tries.push(response.type === "opaque" ? "opaque" : await response.text());
                } catch (error) { tries.push("refused"); }
            }
            return tries;
            """
        let site = try await Site()
        let (value, _) = try await Self.visit("http://127.0.0.1:\(site.port)/nothing", script)
        let tries = try #require(value as? [String])
        #expect(tries.allSatisfy { $0 == "refused" || $0 == "opaque" } && tries.count == 4, "\(tries)")
        let (rebound, _) = try await Self.visit(
            "http://rebound.example:\(setup.admin)/",
            """
            const page = await fetch("/policy").then((answer) => answer.text()).catch(() => "");
            return document.body.innerText + page;
            """
        )
        let said = try #require(rebound as? String)
        #expect(said.contains("names another host") && !said.contains("quarantine"), "\(said)")
        // Nobody has ended it.
        let ready = try await ChildProcess.run("curl", ["-sS", "http://127.0.0.1:\(setup.admin)/readyz"])
        #expect(ready.standardOutput == "ready\n")
        await site.process.stop()
        await setup.stop()
    }
}
