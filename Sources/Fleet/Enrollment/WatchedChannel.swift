import SSHSignal

extension RemoteChannel {
    /// Runs a conversation, and closes the channel as soon as there is an objection to it: what another process has
    /// written to the ledger is seen within a second.
    ///
    /// - Parameters:
    ///   - certification: Whose claim on the device has to hold; nil: nothing is signed, and nothing can be objected.
    ///   - body: The conversation.
    /// - Throws: The objection, whatever else it fails with because of it.
    func watched<Outcome: Sendable>(
        for certification: Certification?,
        _ body: () async throws -> Outcome
    ) async throws -> Outcome {
        guard let certification else { return try await body() }
        let watch = Task { [self] in
            while (try? await Task.sleep(for: .seconds(1))) != nil {
                if certification.objection != nil { return close() }
            }
        }
        defer { watch.cancel() }
        do {
            return try await body()
        } catch {
            // Whatever it is called where it was noticed: this is why.
            throw certification.objection ?? error
        }
    }
}
