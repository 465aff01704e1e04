package import H2Transport
package import MeshIdentity

/// Who the operator is in the mesh: a short-lived identity in the device's namespace, made by the operator's own CA and kept
/// in memory only.
package struct OperatorIdentity: Sendable {
    private let authority: EmbeddedCA
    private let id: SPIFFEID

    /// - Throws: where the device's identity has no place for one beside it.
    package init(for device: Device, by authority: EmbeddedCA) throws(SPIFFEIDError) {
        self.authority = authority
        id = try SPIFFEID(
            trustDomain: authority.trustDomain,
            namespace: device.identity.namespace ?? "default",
            name: "operator"
        )
    }

    /// A new key with its certificate.
    package func issue() throws(IdentityError) -> Credential {
        let key = try PrivateKey.generate()
        let request = try CertificateRequest.create(key: key, id: id)
        let issued = try authority.issue(request, id: id, options: authority.optionsForAnyClock())
        return try Credential(key: key, chain: issued.chain, roots: issued.roots)
    }

    /// What connections need to show a credential.
    package static func context(_ credential: Credential) throws -> TLSContext {
        try TLSContext(role: .client, credential: credential, trust: TrustBundleSet(credential.bundle))
    }
}
