import Glibc
import MeshDirectory
package import MeshIdentity
package import Platform

extension NodeConfiguration {
    /// What is wrong with the key `directory`, as far as it shows without asking anybody: for `--check`.
    ///
    /// - Throws: ``Platform/ConfigurationError`` with everything.
    package func checkDirectory() throws(ConfigurationError) {
        guard let directory else { return }
        var problems: [String] = []
        switch directory.place {
        case .file(let path):
            // An expired credential is renewed by the running node; its roots still hold.
            guard let bundle = try? ownBundle() else { return }
            do throws(DirectoryError) {
                guard let document = try FileDirectory(path).read() else {
                    throw DirectoryError(.missing, "there is no file \(path); `bootstrap mesh put` writes it")
                }
                _ = try DirectoryInForce(document, from: path, bundle: bundle)
            } catch {
                problems.append(error.message)
            }
        case .etcd(let etcd):
            do throws(IdentityError) {
                _ = try ClientCertificate(directory: etcd.credential)
                _ = try Certificate.trusted(file: "\(etcd.credential)/root-cert.pem")
            } catch {
                problems.append("'credential': \(error.message)")
            }
        }
        if let state = directory.state, access(AtomicFile.split(state).directory, W_OK | X_OK) != 0 {
            problems.append("'state': \(state): \(String(cString: strerror(errno)))")
        }
        guard !problems.isEmpty else { return }
        throw ConfigurationError(
            issues: problems.map {
                .init(file: file, position: positions["directory"], message: "'directory': \($0)")
            }
        )
    }
}

extension NodeConfiguration {
    /// Whom the node trusts in its own trust domain, as far as its files say, for who is not that node.
    package func ownBundle() throws(IdentityError) -> TrustBundle {
        guard let directory = identity.directory else { throw Self.onlyForTheNode }
        return try CredentialDirectory(directory).bundle()
    }

    /// Who the node is, as far as its files say.
    package func ownIdentity() throws(IdentityError) -> SPIFFEID {
        switch identity {
        case .directory(let path): return try CredentialDirectory(path).load().id
        case .workloadAPI(let settings):
            guard let id = settings.spiffeID else { throw Self.onlyForTheNode }
            return id
        }
    }

    private static let onlyForTheNode = IdentityError(
        .notFound,
        "it comes from a Workload API, which tells the node's own process only, unless 'identity' has 'spiffeID'"
    )
}

extension CredentialDirectory {
    /// Whom the credential's holder trusts, whether the credential itself is good or has expired.
    package func bundle() throws(IdentityError) -> TrustBundle {
        do throws(IdentityError) {
            return try load().bundle
        } catch {
            guard error.code == .expired || error.code == .notYetValid else { throw error }
            let chain = try Certificate.all(file: "\(path)/cert-chain.pem")
            let roots = try Certificate.trusted(file: "\(path)/root-cert.pem")
            let domain: TrustDomain
            do throws(SVIDError) {
                domain = try chain[0].spiffeID().trustDomain
            } catch {
                throw IdentityError(.invalidCertificate, error.message)
            }
            // What was revoked stays so.
            let lists: [UInt8]?
            do throws(LocalFile.Failure) {
                let limit = RevocationList.maximumLength
                lists = try LocalFile.read("\(path)/ca-crl.pem", limit: limit, allowsPipe: false)
            } catch {
                throw IdentityError(.file, "\(path)/ca-crl.pem cannot be read: \(error.reason)")
            }
            return try TrustBundle(trustDomain: domain, roots: roots, revocationLists: lists)
        }
    }
}
