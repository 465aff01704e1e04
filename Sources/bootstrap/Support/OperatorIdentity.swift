import H2Transport
import MeshIdentity
import SSHSignal

/// Who the operator is in the mesh: a short-lived identity in the device's namespace, made by the operator's own CA and kept
/// in memory only.
struct OperatorIdentity: Sendable {
    private let authority: EmbeddedCA
    private let id: SPIFFEID

    init(for device: DeviceRecord, authority access: CAAccess) throws {
        authority = try access.load()
        do throws(SPIFFEIDError) {
            let peer = try SPIFFEID(device.identity)
            id = try SPIFFEID(
                trustDomain: authority.trustDomain,
                namespace: peer.namespace ?? "default",
                name: "operator"
            )
        } catch {
            throw fail("the record of \(device.name) has no usable identity: \(error)")
        }
    }

    /// A new key with its certificate.
    func issue() throws -> Credential {
        do throws(IdentityError) {
            return try Self.issue(id, by: authority)
        } catch {
            throw fail(error)
        }
    }

    /// A new key with a certificate for `id`.
    static func issue(_ id: SPIFFEID, by authority: EmbeddedCA) throws(IdentityError) -> Credential {
        let key = try PrivateKey.generate()
        let request = try CertificateRequest.create(key: key, id: id)
        let issued = try authority.issue(request, id: id, options: authority.optionsForAnyClock())
        return try Credential(key: key, chain: issued.chain, roots: issued.roots)
    }

    /// What connections need to show a credential.
    static func context(_ credential: Credential) throws -> TLSContext {
        try TLSContext(role: .client, credential: credential, trust: TrustBundleSet(credential.bundle))
    }
}
