import Foundation
import MeshPolicy
import Platform
import TestPeers
import Testing

@testable import MeshNode

/// The script for browsers, run by a JavaScript engine, against what it stands for.
@Suite struct PACFileTests {
    private static let program = """
        const fs = require("fs"), vm = require("vm");
        const [scripts, urls] = JSON.parse(fs.readFileSync(0, "utf8"));
        const answers = [];
        for (const script of scripts) {
          const context = vm.createContext({});
          vm.runInContext(script, context);
          answers.push(urls.map(text => {
            // As a browser reads it before it asks.
            let url;
            try { url = new URL(text); } catch { return null; }
            context.url = url.href;
            context.host = url.hostname;
            const standard = {"http:": 80, "ws:": 80, "https:": 443, "wss:": 443}[url.protocol];
            if (!standard) return null;
            const answer = vm.runInContext("FindProxyForURL(url, host)", context);
            return [url.hostname, url.port === "" ? standard : Number(url.port), answer];
          }));
        }
        console.log(JSON.stringify(answers));
        """

    private static let matches = [
        ["web.mesh:80", "web.mesh:443"], ["*.prod"], ["*.prod:5432", "*.mesh:*"], ["10.0.0.0/8"],
        ["10.1.2.3", "192.168.0.0/24:80"], ["[fd00::1]:8080", "[2001:db8::]/32"], ["::/0", "0.0.0.0/0"],
        ["10.1.2.3/32", "fd00::/127"], ["[fd00::1]"], ["*:8080"], ["*"], ["xn--bcher-kva.mesh", "prod"], [],
    ]

    /// Whatever a browser asks about comes here exactly where an endpoint is for it.
    @Test func fuzz() async throws {
        let corpus = try String(contentsOfFile: TestTools.repository + "/Tests/Peers/http1/pac.corpus", encoding: .utf8)
            .split(separator: "\n").filter { !$0.hasPrefix("#") }.map { Array($0.utf8) }
        let dictionary = [
            "@", ":", "/", "[", "]", ".", "web.mesh", ".prod", ":80", "10.1.2.3", "::", "fd00", "\\", "%2e", "?",
        ]
        var fuzzer = Fuzzer("PAC")
        let endpoints = try Self.matches.map { try $0.map { try EndpointMatch(parsing: $0) } }
        let proxy = try Authority(parsing: "127.0.0.1:15002")
        let scripts = endpoints.map { PACFile.script(proxy: proxy, endpoints: $0) }
        var (rounds, led, direct) = (0, 0, 0)
        while fuzzer.goesOn(rounds, of: 2) {
            var urls = corpus.map { String(decoding: $0, as: UTF8.self) }
            for _ in 0..<3000 {
                let bytes = fuzzer.mutate(corpus, dictionary: dictionary.map { Array($0.utf8) })
                urls.append(String(decoding: bytes, as: UTF8.self))
            }
            let node = try await ChildProcess.run(
                "node",
                ["-e", Self.program],
                input: Array(try JSONEncoder().encode(Input(scripts: scripts, urls: urls)))
            )
            try #require(node.succeeded, "\(node.standardError)")
            let answers = try JSONDecoder().decode([[Answer?]].self, from: Data(node.standardOutput.utf8))
            for (matches, answers) in zip(endpoints, answers) {
                for (url, answer) in zip(urls, answers) {
                    guard let answer else { continue }
                    // What no proxy could be asked for goes either way.
                    guard let destination = try? Authority(parsing: "\(answer.host):\(answer.port)") else { continue }
                    let isOurs = matches.contains { $0.matches(destination) }
                    #expect(
                        answer.text == (isOurs ? "PROXY 127.0.0.1:15002" : "DIRECT"),
                        "\(url) is \(destination), with \(matches)"
                    )
                    if isOurs { led += 1 } else { direct += 1 }
                }
            }
            rounds += 1
        }
        // Inputs that lead nowhere would test nothing.
        #expect(led > 1000 && direct > 1000, "\(led), \(direct)")
    }

    private struct Input: Encodable {
        let scripts: [String]
        let urls: [String]

        func encode(to encoder: any Encoder) throws {
            var container = encoder.unkeyedContainer()
            try container.encode(scripts)
            try container.encode(urls)
        }
    }

    private struct Answer: Decodable {
        let host: String
        let port: UInt16
        let text: String

        init(from decoder: any Decoder) throws {
            var container = try decoder.unkeyedContainer()
            host = try container.decode(String.self)
            port = try container.decode(UInt16.self)
            text = try container.decode(String.self)
        }
    }
}
