import Foundation
import Glibc
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// Where another process has just been started in the same runtime directory, the next one waits for its turn.
@Suite(.timeLimit(.minutes(10))) struct TakeoverWaitTests {
    /// The running process answers the first two who ask with nothing, as while somebody else takes it over, and is
    /// gone then.
    @Test func whoAsksWhileAnotherTakesOverAsksAgain() async throws {
        let directory = TemporaryDirectory()
        let path = Takeover.path(in: directory.path)
        let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        try #require(listener >= 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        try #require(path.utf8.count < MemoryLayout.size(ofValue: address.sun_path))
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        try #require(bound == 0 && listen(listener, 8) == 0)
        chmod(path, 0o600)
        let asked = Lock(0)
        Thread {
            for _ in 0..<2 {
                let connection = accept(listener, nil, nil)
                guard connection >= 0 else { return }
                asked.withLock { $0 += 1 }
                close(connection)
            }
            unlink(path)
            close(listener)
        }.start()
        let taken = try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Bool, any Error>) in
            Thread {
                continuation.resume(with: Result { try Takeover.begin(in: directory.path) != nil })
            }.start()
        }
        #expect(!taken && asked.withLock { $0 } == 2)
    }
}
