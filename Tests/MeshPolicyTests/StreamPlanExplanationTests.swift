import MeshIdentity
import MeshNode
import Streams
import TestPeers
import Testing

@testable import MeshPolicy

@Suite struct ExplanationTests {
    private static let yaml = """
        identity: /i
        listeners:
        - {name: hbone, bind: "0.0.0.0:15008", protocol: hbone}
        endpoints:
        - match: "db.prod:5432"
          address: "10.0.0.8:5432"
          hbone: "10.0.0.8:15008"
          identity: spiffe://mesh.example/ns/prod/sa/db
          ssh: {destination: "ops@eight"}
        - {match: legacy.lan, direct: true}
        policy:
        - name: ssh-ops
          action: ALLOW
          rules:
          - from: [{principals: ["mesh.example/ns/ops/sa/*"]}]
            to: [{hosts: ["127.0.0.1"], ports: [22]}]
          - to: [{ports: [5432]}]
            when: [{transport: [h2, h2-over-ssh]}]
        - {name: watch, action: AUDIT, rules: [{to: [{ports: [22]}]}]}
        """

    private func explain(_ from: String, _ to: String, over transport: Transport = .h2) throws -> StreamPlan {
        StreamPlanner(
            try NodeConfiguration.parse(Self.yaml, file: "node.yaml").rules(),
            own: try SPIFFEID("spiffe://mesh.example/ns/prod/sa/x"),
            ownAddresses: []
        ).plan(try PolicyTests.request(from, to, over: transport))
    }

    @Test func saysTheRuleAndTheRoute() throws {
        let explanation = try explain("mesh.example/ns/ops/sa/ann", "127.0.0.1:22")
        #expect(explanation.isAllowed)
        #expect(
            explanation.description == """
                from    spiffe://mesh.example/ns/ops/sa/ann at 10.1.2.3, over h2
                to      127.0.0.1:22
                policy  allowed by policy 'ssh-ops', rule 1 (ALLOW) (node.yaml:15:5)
                        audited by policy 'watch', rule 1 (AUDIT)
                route   dial 127.0.0.1:22 from here [127.0.0.1 is this node itself]
                result  allowed
                """
        )
    }

    @Test func showsThePathsThatPolicyLeaves() throws {
        let explanation = try explain("local", "db.prod:5432")
        #expect(explanation.isAllowed && explanation.candidates.map(\.id.transport) == [.h2, .h2OverSSH])
        #expect(
            explanation.routeDescription
                == "h2 to 10.0.0.8:15008, then h2-over-ssh by ops@eight, asking for 10.0.0.8:5432, expecting "
                + "spiffe://mesh.example/ns/prod/sa/db [endpoint 'db.prod:5432' (line 5)]"
        )
    }

    @Test func isDeniedByPolicyOrByRoute() throws {
        let byPolicy = try explain("mesh.example/ns/ops/sa/ann", "legacy.lan:80")
        #expect(!byPolicy.isAllowed && byPolicy.route.refusal == nil && byPolicy.rulePlace == nil)
        #expect(byPolicy.description.hasSuffix("result  denied"))
        let byRoute = try explain("local", "nowhere.lan:80")
        #expect(!byRoute.isAllowed && byRoute.decision.isAllowed)
        #expect(byRoute.routeDescription.hasPrefix("refused: no endpoint matches nowhere.lan:80"))
    }
}
