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

    /// Its revocation lists in PEM form; nil where there are none.
    func revocationLists(in directory: String) async throws -> [UInt8]? {
        try await text(of: "\(directory)/ca-crl.pem", limit: RevocationList.maximumLength, step: "revocation list")
    }
}
