import Foundation
import H2Transport
import Streams
import TestPeers
import Testing

/// libcurl (8.1 or newer) as a client that knows nothing of HBONE: our server is an HTTPS proxy over HTTP/2 to it,
/// which asks for a client certificate.
@Suite(.timeLimit(.minutes(10)))
struct CurlTests {
    private static let bytes = 8_000_000

    struct Result: Decodable {
        var event: String
        var status: Int?
        var count: Int?
        var sha256: String?
        var text: String?
        var error: String?
    }

    @Test("HTTP and HTTPS through our server, alone and eight at once; and what curl says of refusals")
    func proxy() async throws {
        try await withLoop { loop in
            // With an IP name beside the SPIFFE ID, which curl verifies.
            let server = try await OnLoop(loop) { try RelayingServer(on: loop, credential: .withNames) }
            let certificates = TestCertificates.shared
            let output = try await ChildProcess.run(
                TestTools.python,
                [
                    TestTools.repository + "/Tests/Peers/curl/proxy.py", String(try await server { $0.port }),
                    certificates.path(.client), certificates.path(.withNames), String(Self.bytes),
                ],
                within: .seconds(100)
            )
            #expect(output.succeeded, "\(output.standardError)")
            let results = output.standardOutput.split(separator: "\n").compactMap {
                try? JSONDecoder().decode(Result.self, from: Data($0.utf8))
            }
            func result(_ event: String) throws -> Result {
                try #require(results.first { $0.event == event }, "\(output.standardOutput)\(output.standardError)")
            }
            let body = try result("body").sha256
            for scheme in ["http", "https"] {
                let get = try result("\(scheme) GET")
                #expect(get.status == 200, "\(scheme): \(get.error ?? "")")
                #expect(get.count == Self.bytes)
                #expect(get.sha256 == body)
                // The origin answers with the checksum of what it got.
                let put = try result("\(scheme) PUT")
                #expect(put.status == 200, "\(scheme): \(put.error ?? "")")
                #expect(put.text == body)
            }
            let parallel = results.filter { $0.event == "parallel" }
            #expect(parallel.count == 8)
            #expect(parallel.allSatisfy { $0.status == 200 && $0.sha256 == body })
            // CONNECT was answered with 503; libcurl does not say so for HTTP/2 proxies.
            let refused = try result("refused")
            #expect(refused.status == 0)
            #expect(refused.error?.isEmpty == false)
            // Not an open proxy for plain HTTP: only tunnels.
            let forward = try result("forward").status
            #expect(forward == 405)
            // 56 or 35, by when the alert is read; and it is TLS that says no.
            let anonymous = try result("anonymous")
            #expect(anonymous.status == 0)
            #expect(anonymous.error?.contains("certificate required") == true, "\(anonymous.error ?? "")")
            try await server.until("the server counts it") { $0.server?.failedHandshakes == 1 }
            let requests = try await server { $0.requests }
            #expect(requests.count == 4 + 8 + 1)
            #expect(requests.allSatisfy { $0.method == .connect })
            try await server { $0.close() }
        }
    }
}
