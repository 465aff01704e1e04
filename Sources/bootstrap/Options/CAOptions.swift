import ArgumentParser
import Fleet
import MeshIdentity
import Platform

/// Where the CA is.
struct CALocation: ParsableArguments {
    @Option(
        name: .customLong("ca"),
        help: ArgumentHelp("Directory of the CA. (default: $BOOTSTRAP_HOME/ca, or ~/.bootstrap/ca)", valueName: "DIR")
    )
    var directory: String?

    var path: String { directory ?? Home.ca }
}

/// The CA whose key is needed.
struct CAAccess: ParsableArguments {
    @OptionGroup var location: CALocation

    @Option(
        help: ArgumentHelp(
            "File with the passphrase of the CA's key; otherwise the terminal is asked.",
            valueName: "FILE"
        )
    )
    var passphraseFile: String?

    /// Nothing was given.
    var isEmpty: Bool { location.directory == nil && passphraseFile == nil }

    /// Opens the CA; asks for the passphrase if its key turns out to be encrypted.
    func load() throws -> EmbeddedCA { try loadWithPassphrase().authority }

    /// The same, with the passphrase of its key; nil where that is not encrypted.
    func loadWithPassphrase() throws -> (authority: EmbeddedCA, passphrase: Passphrase?) {
        do throws(IdentityError) {
            return try openWithPassphrase()
        } catch {
            throw fail(error)
        }
    }

    /// The same, and prints nothing.
    private func openWithPassphrase() throws(IdentityError) -> (authority: EmbeddedCA, passphrase: Passphrase?) {
        ProcessMemory.isHidden()
        if let passphraseFile {
            let passphrase = try Passphrase(file: passphraseFile)
            return (try EmbeddedCA.load(directory: location.path, passphrase: passphrase), passphrase)
        }
        do throws(IdentityError) {
            return (try EmbeddedCA.load(directory: location.path), nil)
        } catch {
            guard error.code == .passphraseRequired else { throw error }
            guard let passphrase = TerminalPrompt.passphrase("Passphrase of the CA in \(location.path): ") else {
                throw IdentityError(
                    .passphraseRequired,
                    "\(error.message), and there is no terminal to ask on; give it with --passphrase-file"
                )
            }
            return (try EmbeddedCA.load(directory: location.path, passphrase: passphrase), passphrase)
        }
    }
}

extension CAAccess {
    /// Opens the CA, for as long as the process runs; asks for the passphrase if its key turns out to be encrypted.
    ///
    /// - Throws: the exit code; why was printed.
    func loadLive() throws -> LiveCA {
        do throws(IdentityError) {
            return try openLive()
        } catch {
            throw fail(error)
        }
    }

    /// The same, and prints nothing.
    func openLive() throws(IdentityError) -> LiveCA {
        let (authority, passphrase) = try openWithPassphrase()
        return LiveCA(authority, directory: location.path, passphrase: passphrase)
    }
}

extension LiveCA {
    /// Before something is signed by hand: what the ledger knows to be revoked is on the list that goes out with it.
    ///
    /// - Throws: the exit code; why was printed.
    func reconcile(with ledger: Ledger) throws {
        do throws(LedgerError) {
            try RevocationPublisher(authority: self, ledger: ledger).reconcile { printWarning($0) }
        } catch {
            throw fail(error.message)
        }
    }
}

extension RevocationPublisher {
    /// For whatever gives certificates to devices: compares ledger and list first.
    ///
    /// - Returns: nil where somebody else's CA signs.
    /// - Throws: the exit code; why was printed.
    static func reconciled(_ issuer: any CertificateIssuer, with ledger: Ledger) throws -> RevocationPublisher? {
        guard let authority = issuer as? LiveCA else { return nil }
        // Who is revoked says the CA's list, too, where the ledger has forgotten it.
        try authority.reconcile(with: ledger)
        return RevocationPublisher(authority: authority, ledger: ledger)
    }
}
