import MeshIdentity
import MeshPolicy
import Streams

/// The keys that a node fetches: one ring for each address, for as long as anybody verifies tokens with it. Safe from
/// any thread.
package final class TokenKeyRings: Sendable {
    private struct Entry {
        weak var ring: TokenKeyRing?
        let files: DirectTLSFiles
    }

    private let entries = Lock<[TokenSettings.KeyAddress: Entry]>([:])

    package init() {}

    /// The one for `address`, made where there is none.
    ///
    /// - Throws: What is wrong with the file of roots.
    func ring(for address: TokenSettings.KeyAddress) throws(TokenError) -> TokenKeyRing {
        let files: DirectTLSFiles
        do throws(StreamError) {
            files = try DirectTLSFiles(loading: DirectTLS(serverName: nil, roots: address.roots))
        } catch {
            throw TokenError(.keys, "\(address): \(error.message)")
        }
        return entries.withLock { entries in
            let ring = entries[address]?.ring ?? TokenKeyRing()
            entries[address] = Entry(ring: ring, files: files)
            return ring
        }
    }

    /// Those that are in use, and who may vouch for their servers.
    var all: [(address: TokenSettings.KeyAddress, ring: TokenKeyRing, files: DirectTLSFiles)] {
        entries.withLock { entries in
            entries = entries.filter { $0.value.ring != nil }
            return entries.compactMap { address, entry in entry.ring.map { (address, $0, entry.files) } }
        }
    }
}
