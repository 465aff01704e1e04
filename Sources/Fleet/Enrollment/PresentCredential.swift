package import MeshIdentity
import SSHSignal

/// The identity that a machine has already, by its own word.
package struct PresentIdentity: Hashable, Sendable {
    package var id: SPIFFEID
    /// Of the certificate, in lower-case hexadecimal.
    package var serial: String
}

/// What a machine has already in a credential directory, read with a shell: its own word, which is as hostile as all
/// that it says.
extension RemoteShell {
    /// The identity in its certificate, valid or not; nil where there is none.
    func presentIdentity(in directory: String) async throws -> PresentIdentity? {
        let file = "\(directory)/cert-chain.pem"
        guard let text = try await text(of: file, limit: 256 << 10, step: "identity") else { return nil }
        // nil would say that nobody is here.
        guard !text.isCut else {
            throw SignalError(
                .timedOut,
                "\(name): \(file) was not read in time: whose machine this is, is not known"
            )
        }
        guard let leaf = try? Certificate.all(pem: text.bytes).first, let id = try? leaf.spiffeID() else { return nil }
        return PresentIdentity(id: id, serial: leaf.serialNumber)
    }

    /// The same, and fails where that must stay.
    ///
    /// - Parameters:
    ///   - directory: Where to look.
    ///   - judged: What was found before, and allowed.
    ///   - occupied: Why it must stay; nil where it need not.
    func presentIdentity(
        in directory: String,
        judged: PresentIdentity? = nil,
        occupied: (PresentIdentity) -> HostError?
    ) async throws -> PresentIdentity? {
        let present = try await presentIdentity(in: directory)
        if let present, present != judged, let refusal = occupied(present) { throw refusal }
        return present
    }

    /// Its revocation lists in PEM form; nil where there are none, or they did not come in time.
    ///
    /// - Parameter warn: Told where they did not: without the name.
    func revocationLists(
        in directory: String,
        within patience: Duration = .seconds(60),
        warn: @Sendable (String) -> Void
    ) async throws -> [UInt8]? {
        let file = "\(directory)/ca-crl.pem"
        guard
            let text = try await text(
                of: file,
                limit: RevocationList.maximumLength,
                step: "revocation list",
                within: patience
            )
        else { return nil }
        guard !text.isCut else {
            warn(
                "\(file) was not read to its end within \(patience.components.seconds) s: what it says of revoked certificates, and the ledger "
                    + "may not know, is not taken over"
            )
            return nil
        }
        return text.bytes
    }
}
