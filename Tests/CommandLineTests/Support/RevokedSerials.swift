import MeshIdentity
import Platform

/// What the revocation lists in a file revoke.
func revokedSerials(at path: String) throws -> Set<String> {
    try RevocationList.all(pem: AtomicFile.read(path)).reduce(into: []) { $0.formUnion($1.serials) }
}
