/// What a test waited for did not happen in time.
public struct DeadlineExceeded: Error, CustomStringConvertible {
    public let description: String

    public init(_ description: String) {
        self.description = description
    }
}

/// Waits until `condition` holds, looking every few milliseconds, and throws `DeadlineExceeded` after `limit`.
///
/// For conditions that nothing announces (a file appears, a process is gone). The limit is generous because it only
/// costs time where the test fails anyway: on a machine that is twenty times slower it must still do.
public func eventually(
    _ what: String,
    within limit: Duration = .seconds(90),
    _ condition: () async throws -> Bool
) async throws {
    let clock = ContinuousClock()
    let deadline = clock.now + limit
    while try await !condition() {
        guard clock.now < deadline else {
            throw DeadlineExceeded("not within \(limit): \(what)")
        }
        try await Task.sleep(for: .milliseconds(5))
    }
}
