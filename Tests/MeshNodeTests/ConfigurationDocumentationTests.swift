import Foundation
import Platform
import TestPeers
import Testing
import YAML

@testable import MeshNode

/// What the documentation shows must work as it stands there.
@Suite struct DocumentationTests {
    @Test(arguments: [("configuration.md", 18), ("policy.md", 1)])
    func everyExampleIsAccepted(_ page: String, _ count: Int) throws {
        let text = try String(contentsOfFile: "\(TestTools.repository)/docs/\(page)", encoding: .utf8)
        let blocks = text.components(separatedBy: "```yaml\n").dropFirst().compactMap {
            $0.components(separatedBy: "\n```").first
        }
        #expect(blocks.count == count)
        for block in blocks {
            let configuration = try NodeConfiguration.parse(block, file: page)
            do {
                try configuration.validate(checkingFiles: false)
            } catch {
                // The page says which parts are not available yet.
                #expect(error.issues.allSatisfy { $0.message.contains("is not available in this build") }, "\(error)")
                #expect(block.contains("labels: {tun: "))
            }
        }
    }

    /// Every key that the decoder knows stands in the documentation.
    @Test func everyKeyIsDocumented() throws {
        let pages = try ["configuration.md", "policy.md"].map {
            try String(contentsOfFile: "\(TestTools.repository)/docs/\($0)", encoding: .utf8)
        }.joined()
        let places = [
            "{zzz: 1}", "{identity: {zzz: 1}, listeners: [{}]}", "{identity: i, listeners: [{zzz: 1}]}",
            "{identity: i, listeners: [{}], endpoints: [{zzz: 1}]}",
            "{identity: i, listeners: [{name: a, bind: \"127.0.0.1:1\", protocol: transparent, capture: {zzz: 1}}]}",
            "{identity: i, listeners: [{name: a, bind: \"127.0.0.1:1\", protocol: dns, names: {zzz: 1}}]}",
            "{identity: i, listeners: [{name: a, bind: \"127.0.0.1:1\", protocol: http, routes: [{zzz: 1}], "
                + "timeouts: {zzz: 1}, limits: {zzz: 1}}]}",
            "{identity: i, listeners: [{name: a, bind: \"127.0.0.1:1\", protocol: http-proxy, jwt: {zzz: 1}}]}",
            "{identity: i, listeners: [{}], trust: [{zzz: 1}]}", "{identity: i, reverse: [{zzz: 1}]}",
            "{identity: i, listeners: [{}], endpoints: [{ssh: {zzz: 1}}]}",
            "{identity: i, listeners: [{}], endpoints: [{tls: {zzz: 1}}]}",
            "{identity: i, listeners: [{}], endpoints: [{proxy: {zzz: 1}, token: {zzz: 1}}]}",
            "{identity: i, listeners: [{}], policy: [{zzz: 1}]}",
            "{identity: i, listeners: [{}], connections: {zzz: 1}}",
            "{identity: i, listeners: [{}], policy: [{name: a, action: DENY, rules: [{zzz: 1}]}]}",
            "{identity: i, listeners: [{}], policy: [{name: a, action: DENY, rules: [{from: [{zzz: 1}], to: [{zzz: 1}], when: [{zzz: 1}]}]}]}",
        ]
        var keys: Set<String> = []
        for place in places {
            let error = #expect(throws: ConfigurationError.self) { try NodeConfiguration.parse(place, file: "f") }
            for message in error?.issues.map(\.message) ?? [] {
                guard let list = message.components(separatedBy: "known keys are ").dropFirst().first else { continue }
                keys.formUnion(list.components(separatedBy: ", "))
            }
        }
        #expect(keys.count >= 30, "\(keys.sorted())")
        for key in keys { #expect(pages.contains("`\(key)`"), "\(key) is not in the documentation") }
        for kind in NodeConfiguration.ListenerProtocol.allCases { #expect(pages.contains("`\(kind.rawValue)`")) }
    }
}
