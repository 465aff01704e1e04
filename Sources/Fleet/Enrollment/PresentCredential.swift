import MeshIdentity

/// What a machine has already in a credential directory, read with a shell: its own word, which is as hostile as all that it says.
extension RemoteShell {
    /// The identity in its certificate, valid or not; nil where there is none.
    func presentIdentity(in directory: String) async throws -> SPIFFEID? {
        guard let text = try await text(of: "\(directory)/cert-chain.pem", limit: 256 << 10, step: "identity"),
            let leaf = try? Certificate.all(pem: text).first
        else { return nil }
        return try? leaf.spiffeID()
    }

    /// The same, and fails where that is another device's and must stay.
    ///
    /// - Parameters:
    ///   - directory: Where to look.
    ///   - id: The device's own.
    ///   - judged: What was found before, and allowed.
    ///   - occupied: Why another one must stay; nil where it need not.
    func presentIdentity(
        in directory: String,
        of id: SPIFFEID,
        judged: SPIFFEID? = nil,
        occupied: (SPIFFEID) -> HostError?
    ) async throws -> SPIFFEID? {
        let present = try await presentIdentity(in: directory)
        if let present, present != id, present != judged, let refusal = occupied(present) { throw refusal }
        return present
    }

    /// Its revocation lists in PEM form; nil where there are none.
    func revocationLists(in directory: String) async throws -> [UInt8]? {
        try await text(of: "\(directory)/ca-crl.pem", limit: RevocationList.maximumLength, step: "revocation list")
    }
}
