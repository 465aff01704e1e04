import Foundation
import TestPeers
import Testing

/// A site as a browser meets it through the fronts: Debian's Chromium, without a window.
@Suite(
    .enabled(if: TestTools.isInstalled("chromium"), "chromium is not installed"),
    .serialized,
    .timeLimit(.minutes(10))
)
struct BrowserTests {
    /// The site and its WebSockets, and the nodes that lead there.
    private final class Setup: Sendable {
        let site: Site
        let nodes: IngressNodes

        init() async throws {
            site = try await Site()
            nodes = try await IngressNodes(
                """
                - {name: socks, bind: "127.0.0.1:0", protocol: socks5}
                - {name: proxy, bind: "127.0.0.1:0", protocol: http-proxy}
                - name: web
                  bind: "127.0.0.1:0"
                  protocol: https
                  credentials: ["DIR/web"]
                  routes:
                    - {host: "www.example.org", path: "/socket", to: "sockets.mesh:80"}
                    - {host: "www.example.org", to: "site.mesh:80"}
                """,
                names: ["site.mesh:80": site.port, "sockets.mesh:80": site.socketsPort],
                certificates: ["web": ["www.example.org"]]
            )
        }

        /// Opens a page, and returns what its script has told the site.
        func browse(_ url: String, _ options: [String]) async throws -> String {
            let profile = TemporaryDirectory()
            let browser = try ChildProcess(
                "chromium",
                [
                    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                    "--disable-background-networking", "--disable-component-update", "--disable-sync",
                    "--user-data-dir=\(profile.path("profile"))",
                ] + options + [url],
                environment: ["HOME": profile.path]
            )
            defer { withExtendedLifetime(profile) {} }
            do {
                let line = try await site.process.standardOutput.line("a result", within: .seconds(90)) {
                    $0.hasPrefix("result ")
                }
                await browser.stop()
                return line
            } catch {
                await browser.stop()
                throw DeadlineExceeded(
                    "\(error)\nthe browser:\n\(browser.standardError.text)\nthe node:\n\(nodes.ingress.standardError.text)"
                )
            }
        }

        func stop() async {
            await nodes.stop()
            await site.process.stop()
        }
    }

    private static let allIsWell = "result data true, upload 3145728, events 012, socket 5"

    /// What the browser would say to its makers goes nowhere.
    private static let nobodyElse = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"

    @Test func throughSOCKS() async throws {
        let setup = try await Setup()
        let told = try await setup.browse(
            "http://site.mesh/?ws=ws://sockets.mesh/",
            ["--proxy-server=socks5://127.0.0.1:\(try setup.nodes.port("socks"))", Self.nobodyElse]
        )
        #expect(told == Self.allIsWell)
        await setup.stop()
    }

    @Test func throughTheProxyWithItsScript() async throws {
        let setup = try await Setup()
        let told = try await setup.browse(
            "http://site.mesh/?ws=ws://sockets.mesh/",
            ["--proxy-pac-url=http://127.0.0.1:\(try setup.nodes.port("proxy"))/proxy.pac", Self.nobodyElse]
        )
        #expect(told == Self.allIsWell)
        await setup.stop()
    }

    @Test func throughTheIngress() async throws {
        let setup = try await Setup()
        let port = try setup.nodes.port("web")
        // The certificate that it is to trust, by its key.
        let key = try await ChildProcess.run(
            "sh",
            [
                "-c",
                "openssl x509 -in '\(setup.nodes.directory.path("web/cert-chain.pem"))' -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64",
            ]
        )
        let told = try await setup.browse(
            "https://www.example.org:\(port)/?ws=wss://www.example.org:\(port)/socket",
            [
                "--host-resolver-rules=MAP www.example.org 127.0.0.1, MAP * ~NOTFOUND",
                "--ignore-certificate-errors-spki-list=\(key.standardOutput.trimmingCharacters(in: .newlines))",
            ]
        )
        #expect(told == Self.allIsWell)
        await setup.stop()
    }
}

/// `Tests/Peers/http1/site.py`.
final class Site: Sendable {
    let process: ChildProcess
    let port: UInt16
    let socketsPort: UInt16

    init() async throws {
        process = try ChildProcess(
            TestTools.python,
            [TestTools.repository + "/Tests/Peers/http1/site.py"],
            keepsInputOpen: true
        )
        let ports = try await process.standardOutput.line { $0.split(separator: " ").count == 2 }
            .split(separator: " ").compactMap { UInt16($0) }
        try #require(ports.count == 2)
        (port, socketsPort) = (ports[0], ports[1])
    }
}
