import Streams

/// How many logins may be under way to one address at a time, and how a refusal for the moment is waited out.
///
/// OpenSSH's default `MaxStartups 10:30:100` drops three of ten connections beyond ten that have not authenticated;
/// dropbear allows five of an address.
final class DialLimit: Sendable {
    /// For all logins of this process.
    static let shared = DialLimit(perAddress: 8)

    /// The tries of one login, the first included.
    static let tries = 6

    private struct Line {
        var underWay = 0
        var waiting: [CheckedContinuation<Void, Never>] = []
    }

    private let perAddress: Int
    private let lines = Lock<[String: Line]>([:])

    init(perAddress: Int) {
        self.perAddress = perAddress
    }

    /// Runs `body` as one of the address's logins; waits for another to end where there are enough, in order.
    func run<Success>(
        to address: String,
        _ body: () async throws(SSHError) -> Success
    ) async throws(SSHError) -> Success {
        await enter(address)
        defer { leave(address) }
        return try await body()
    }

    /// Repeats `body` while the server says that it is busy, with growing pauses: an eighth of a second, since a server
    /// that is just being restarted looks the same, then one, two, four, eight, each ± 25 %, so that those who were
    /// refused together do not come back together. The place in the line is given up meanwhile.
    func runPatiently<Success>(
        to address: String,
        pause: Duration = .seconds(1),
        retrying: (SSHError) -> Void,
        _ body: () async throws(SSHError) -> Success
    ) async throws(SSHError) -> Success {
        var next = pause
        for number in 1..<Self.tries {
            do throws(SSHError) {
                return try await run(to: address, body)
            } catch {
                guard error.code == .busy, !Task.isCancelled else { throw error }
                retrying(error)
                let time = number == 1 ? pause / 8 : next
                if number > 1 { next *= 2 }
                guard (try? await Task.sleep(for: time * Double.random(in: 0.75...1.25))) != nil else { throw error }
            }
        }
        return try await run(to: address, body)
    }

    /// Logins under way, for tests.
    func underWay(to address: String) -> Int { lines.withLock { $0[address]?.underWay ?? 0 } }

    private func enter(_ address: String) async {
        await withCheckedContinuation { continuation in
            let mayGo = lines.withLock { lines in
                var line = lines[address] ?? Line()
                defer { lines[address] = line }
                if line.underWay < perAddress {
                    line.underWay += 1
                    return true
                }
                line.waiting.append(continuation)
                return false
            }
            if mayGo { continuation.resume() }
        }
    }

    private func leave(_ address: String) {
        let next: CheckedContinuation<Void, Never>? = lines.withLock { lines in
            guard var line = lines[address] else { return nil }
            defer { lines[address] = line.underWay == 0 ? nil : line }
            guard line.waiting.isEmpty else { return line.waiting.removeFirst() }
            line.underWay -= 1
            return nil
        }
        next?.resume()
    }
}
