import H2Transport
import Platform
import Streams
import TestPeers
import Testing

@testable import Fleet
@testable import MeshIdentity

/// The operator's credential while a command runs.
@Suite(.timeLimit(.minutes(10))) struct OperatorSessionTests {
    private let home = TemporaryDirectory()

    /// A look fails, and then the same files, as far as the kernel says, have a revocation.
    @Test func aLookThatFailedOnceIsRepeated() async throws {
        let directory = home.path("home/ca")
        let ca = try EmbeddedCA.create(directory: directory, trustDomain: TrustDomain("demo.example"))
        let records = DeviceDirectory(home.path("home/devices"))
        let device = try DeviceDirectoryTests.record("dev7")
        try records.save(device)
        let authority = LiveCA(ca, directory: directory, passphrase: nil)
        let session = try OperatorSession(of: OperatorIdentity(for: device, by: authority, records: records))
        let entries = [RevokedCertificate(serial: "4f", revokedAt: 1_700_000_000)]
        let list = try ca.revocationList(of: entries, number: 1, nextUpdate: 4_000_000_000).pem
        try AtomicFile.write([UInt8](repeating: 0x78, count: list.count), to: "\(directory)/ca-crl.pem")
        let file = OverwrittenFile("\(directory)/ca-crl.pem")
        try file.overwrite([UInt8](repeating: 0x78, count: list.count))
        let (news, announce) = AsyncStream.makeStream(of: Bool.self)
        let said = Lock(0)
        let following = Task {
            defer { announce.finish() }
            try await session.follow { _ in
                said.withLock { $0 += 1 }
                #expect(throws: Never.self) { try file.overwrite(list) }
            } use: { context in
                announce.yield(context.trust.hasSameObjections(as: session.context.trust))
            }
        }
        var iterator = news.makeAsyncIterator()
        let isSame = await iterator.next()
        // Its files go with this test.
        following.cancel()
        _ = await following.result
        #expect(isSame == false)
        #expect(said.withLock { $0 } == 1)
    }
}
